"""A Flask application of the usual kind."""

import flask

application = flask.Flask(__name__)
application.secret_key = "for the tests"


@application.get("/")
def index():
    return flask.render_template_string("Hello, {{ name }}!", name=flask.request.args.get("name", "World"))


@application.route("/form", methods=["GET", "POST"])
def form():
    return flask.jsonify(flask.request.form)


@application.post("/json")
def echo():
    return flask.jsonify(flask.request.get_json())


@application.post("/upload")
def upload():
    return flask.jsonify({name: len(file.read()) for name, file in flask.request.files.items()})


@application.get("/session")
def session():
    flask.session["visits"] = flask.session.get("visits", 0) + 1
    return str(flask.session["visits"])


@application.get("/stream")
def stream():
    def numbers():
        for number in range(1000):
            yield f"{number} {flask.request.path}\n"

    return flask.Response(flask.stream_with_context(numbers()), mimetype="text/plain")


@application.get("/file")
def file():
    return flask.send_file(__file__, conditional=True)


@application.get("/url")
def url():
    return flask.url_for("index", _external=True)


@application.get("/fail")
def fail():
    raise ValueError("raised in a view")
