-- 16 KiB to be echoed
wrk.method = "POST"
wrk.body = string.rep("abcdefgh", 2048)
wrk.headers["Content-Type"] = "application/octet-stream"
