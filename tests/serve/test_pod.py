"""docker/kubernetes.yaml: an image's command serves in the surroundings that its pods have."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from servers import TESTS
from serving import Serve

ROOT = TESTS.parent
#: `burrow` in such surroundings: an account that nobody knows, no rights, nothing to write to but a volume.
POD = """\
#!/bin/sh
exec unshare --mount sh -euc '
    mount --bind {dist} /mnt
    mount --bind {app} /srv
    mount -t tmpfs -o mode=1777 tmpfs {volume}
    mount -o remount,bind,ro /
    cd /srv
    exec env -i PATH=/usr/sbin:/usr/bin:/bin setpriv --reuid {runAsUser} --regid {runAsGroup} \\
        --clear-groups --bounding-set=-all --no-new-privs /mnt/bin/burrow "$@"
' pod "$@"
"""
can_mount = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount, reason="mounts file systems")
def test_a_pod(burrow, folder, server):
    deployment, service = yaml.safe_load_all((ROOT / "docker/kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    (container,), (port,) = pod["spec"]["containers"], service["spec"]["ports"]
    assert port["targetPort"] == container["ports"][0]["name"]
    (mount,) = container["volumeMounts"]
    command = json.loads(re.search(r"^CMD (.*)", (ROOT / f"docker/{server}.Dockerfile").read_text(), re.M)[1])
    assert command[:2] == ["burrow", "serve"]
    assert command[command.index("--bind") + 1] == f"0.0.0.0:{container['ports'][0]['containerPort']}"
    shutil.copy(ROOT / "examples/hello/app.wsgi", folder)
    inside = folder / "burrow"
    folders = {"dist": burrow.parent.parent, "app": folder, "volume": mount["mountPath"]}
    inside.write_text(POD.format(**folders, **pod["spec"]["securityContext"]))
    inside.chmod(0o755)
    running = Serve(inside, command[-1], "--server", command[command.index("--server") + 1], python=False)
    try:
        assert running.get(container["readinessProbe"]["httpGet"]["path"])[0] == 200
    finally:
        running.stop()
