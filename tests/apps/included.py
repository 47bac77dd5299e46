"""A page that includes answers of other applications."""


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b'before <!--# include virtual="/plain" --> and <!--# include virtual="/own?404" --> after']
