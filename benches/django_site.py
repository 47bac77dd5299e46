"""A Django page with a query and a template, over WSGI and ASGI."""

import pathlib

import django
from django.conf import settings

DATABASE = pathlib.Path(__file__).resolve().parent.parent / "target/bench/django.sqlite3"
PAGE = """<!doctype html><title>{{ title }}</title><ul>
{% for item in items %}<li>{{ item.name }}: {{ item.price|floatformat:2 }}</li>
{% endfor %}</ul>
"""

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="benchmark",
    DATABASES={
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATABASE, "CONN_MAX_AGE": None},
    },
    TEMPLATES=[{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", {"page.html": PAGE})]},
    }],
)  # fmt: skip
django.setup()

# What needs the settings.
from django.db import connection, models  # noqa: E402
from django.shortcuts import render  # noqa: E402
from django.urls import path  # noqa: E402


class Item(models.Model):
    name = models.CharField(max_length=40)
    price = models.FloatField()

    class Meta:
        app_label = "bench"


def page(request):
    return render(request, "page.html", {"title": "Items", "items": Item.objects.order_by("price")[:20]})


urlpatterns = [path("django", page)]


def create():
    """The database, once, for servers whose workers may only read it."""
    DATABASE.unlink(missing_ok=True)
    with connection.schema_editor() as editor:
        editor.create_model(Item)
    Item.objects.bulk_create(Item(name=f"Item {number}", price=number * 1.5) for number in range(100))
    connection.close()


def wsgi():
    from django.core.wsgi import get_wsgi_application

    return get_wsgi_application()


def asgi():
    from django.core.asgi import get_asgi_application

    return get_asgi_application()


if __name__ == "__main__":
    create()
