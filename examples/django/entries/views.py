import os
from pathlib import PurePath

from django.contrib import messages
from django.http import FileResponse
from django.shortcuts import get_object_or_404, redirect, render

from .forms import EntryForm
from .models import Entry


def index(request):
    """The page: a form and the latest entries. The session remembers the visitor's name."""
    visits = request.session["visits"] = request.session.get("visits", 0) + 1
    form = EntryForm(initial={"name": request.session.get("name")})
    if request.method == "POST":
        form = EntryForm(request.POST, request.FILES)
        if form.is_valid():
            entry = form.save()
            request.session["name"] = entry.name
            messages.success(request, f"Thank you, {entry.name}!")
            return redirect("index")
    return render(
        request,
        "entries/index.html",
        {
            "form": form,
            "entries": Entry.objects.all()[:20],
            "visits": visits,
            "server": request.META.get("SERVER_SOFTWARE"),
            "pid": os.getpid(),
        },
    )


def download(request, pk):
    """An uploaded file: pictures in the page, anything else as a download."""
    entry = get_object_or_404(Entry.objects.exclude(file=""), pk=pk)
    return FileResponse(
        entry.file.open(), as_attachment=not entry.is_picture, filename=PurePath(entry.file.name).name
    )
