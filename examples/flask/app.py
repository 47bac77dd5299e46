"""A Flask application with a form, a JSON view and a streamed answer."""

from flask import Flask, Response, jsonify, render_template_string, request

application = app = Flask(__name__)

PAGE = """<!doctype html>
<title>Flask on Burrow</title>
<h1>Hello, {{ name }}!</h1>
<form method="post">
  <label>Your name <input name="name" value="{{ name }}" required></label>
  <button>Greet me</button>
</form>
<p><a href="{{ url_for('about') }}">About this server</a>,
<a href="{{ url_for('count', until=10) }}">count to ten</a></p>
"""


@app.route("/", methods=["GET", "POST"])
def index():
    return render_template_string(PAGE, name=request.form.get("name", "World"))


@app.get("/about")
def about():
    keys = ("SERVER_SOFTWARE", "SERVER_PROTOCOL", "wsgi.multiprocess", "wsgi.multithread")
    return jsonify({key: request.environ[key] for key in keys})


@app.get("/count/<int:until>")
def count(until):
    return Response((f"{number}\n" for number in range(1, until + 1)), mimetype="text/plain")
