# Burrow in nginx, serving the application in /app; build it from the repository's root:
#   docker build -f docker/nginx.Dockerfile -t burrow:nginx .
FROM debian:bookworm-slim AS build
WORKDIR /src
COPY . .
RUN docker/install.sh build

FROM debian:bookworm-slim
COPY --from=build /out/ /
COPY docker/install.sh /tmp/install.sh
RUN /tmp/install.sh nginx && rm /tmp/install.sh
COPY examples/hello /app
USER burrow
WORKDIR /app
EXPOSE 8000
CMD ["burrow", "serve", "--server", "nginx", "--bind", "0.0.0.0:8000", "app.wsgi"]
