"""File systems of a test's own, in files that lie in memory, and what can go wrong with them.

An image in memory keeps the pace of the machine's real disk, and of whoever else uses it, out of
the figures; what is lost and what stays is decided by the file system above it.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import time

import pytest

from checks import wait_until

FIBMAP, FIGETBSZ = 1, 2
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
# struct loop_info64 and the place of lo_sizelimit in it.
LOOP_SET_STATUS64, LOOP_GET_STATUS64, LOOP_STATUS_BYTES, LOOP_SIZE_LIMIT_AT = 0x4C04, 0x4C05, 232, 32
# EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN; 2 leaves the journal as it is on the disk.
SHUTDOWN, WITHOUT_JOURNAL_FLUSH = 0x8004587D, 2
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F", "-m0"], "xfs": ["mkfs.xfs", "-q", "-f"]}
# mkfs.xfs refuses anything smaller.
XFS_MEGABYTES_MIN = 320


class Disk:
    """A file system, mounted on `path`."""

    def __init__(self, home, name, kind, megabytes, options):
        self.kind, self.image, self.path = kind, home / f"{name}.img", home / name
        self.path.mkdir()
        self.binds = []
        with open(self.image, "wb") as file:
            file.truncate(megabytes << 20)
        if shutil.which(MAKE[kind][0]) is None:
            pytest.fail(f"needs {MAKE[kind][0]}: apt-get install -y e2fsprogs xfsprogs")
        subprocess.run([*MAKE[kind], *options, str(self.image)], check=True)
        self.mount()

    def mount(self):
        subprocess.run(["mount", "-o", "loop,noatime", str(self.image), str(self.path)],
                       check=True)
        for directory in self.binds:
            subprocess.run(["mount", "--bind", str(self.path), str(directory)], check=True)

    def bind(self, directory):
        """Shows the file system in another place as well."""
        directory.mkdir(parents=True)
        subprocess.run(["mount", "--bind", str(self.path), str(directory)], check=True)
        self.binds.append(directory)

    def unmount(self):
        """Waits until nobody holds the file system: a killed node's ring goes a little later."""
        deadline = time.monotonic() + 20
        while True:
            # A file system that is shut down answers nothing, not even whether it is there.
            mounted = {line.split()[1] for line in open("/proc/self/mounts")}
            places = [place for place in [*self.binds, self.path] if str(place) in mounted]
            if not places:
                return
            done = subprocess.run(["umount", *map(str, places)], check=False, capture_output=True)
            if done.returncode == 0:
                return
            assert time.monotonic() < deadline, f"umount: {done.stderr.decode()}"
            time.sleep(0.02)

    def remount(self, option):
        """`ro` or `rw`; refused while a file is open for writing, and then tried again."""
        deadline = time.monotonic() + 20
        while subprocess.run(["mount", "-o", f"remount,{option}", str(self.path)], check=False,
                             capture_output=True).returncode:
            assert time.monotonic() < deadline, f"cannot be mounted {option}"
            time.sleep(0.01)

    def device(self):
        """Path of the loop device."""
        found = subprocess.run(["findmnt", "-no", "SOURCE", str(self.path)], check=True,
                               capture_output=True, text=True)
        return found.stdout.strip()

    def ioctl(self, request, argument):
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(directory, request, argument)
        finally:
            os.close(directory)

    def cut_power(self):
        """From here on the disk stays as it is, every write fails, and memory goes at unmount."""
        self.ioctl(SHUTDOWN, struct.pack("I", WITHOUT_JOURNAL_FLUSH))

    def freeze(self):
        """The disk hangs."""
        self.ioctl(FIFREEZE, 0)

    def thaw(self):
        try:
            self.ioctl(FITHAW, 0)
        except OSError:
            pass  # it is not frozen

    def fill(self, left_bytes=0):
        """Takes all space but this much; `free` gives it back."""
        ballast = self.path / "ballast"
        ballast.mkdir(exist_ok=True)
        with open(ballast / f"bytes-{len(os.listdir(ballast))}", "wb") as file:
            taken, piece = 0, 8 << 20
            while piece >= 1024:
                status = os.statvfs(self.path)
                left = status.f_bavail * status.f_frsize - left_bytes
                try:
                    os.posix_fallocate(file.fileno(), taken, min(piece, left) if left > 0 else 0)
                    taken += min(piece, left)
                except OSError:  # that much is not there, or nothing more is to be taken
                    piece //= 2

    def fill_inodes(self, left):
        """Takes all inodes but so many."""
        ballast = self.path / "ballast"
        ballast.mkdir(exist_ok=True)
        for number in range(os.statvfs(self.path).f_ffree - left):
            (ballast / str(number)).touch()

    def free(self):
        shutil.rmtree(self.path / "ballast")

    def limit(self, length):
        """What lies behind so many bytes of the device is out of reach: reading and writing fail
        there. 0: all is there again."""
        device = os.open(self.device(), os.O_RDWR)
        try:
            status = bytearray(fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(LOOP_STATUS_BYTES)))
            struct.pack_into("=Q", status, LOOP_SIZE_LIMIT_AT, length)
            fcntl.ioctl(device, LOOP_SET_STATUS64, bytes(status))
        finally:
            os.close(device)

    def first_block(self, file):
        """Where the file begins on the device, in bytes."""
        with open(file, "rb") as opened:
            block = fcntl.ioctl(opened, FIBMAP, struct.pack("i", 0))
            size = fcntl.ioctl(opened, FIGETBSZ, struct.pack("i", 0))
        return struct.unpack("i", block)[0] * struct.unpack("i", size)[0]

    def end(self):
        self.thaw()
        # The node of the test is ended by its own fixture before this one; lazily, all the same.
        for place in [*self.binds, self.path]:
            subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


@pytest.fixture
def disks(tmp_path):
    """Makes file systems; they are gone afterwards. To be asked for before `start`."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own needs root: mount, ioctl")
    home = tmp_path / "memory"
    home.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g", "tmpfs", str(home)], check=True)
    made = []

    def make(kind="ext4", megabytes=256, options=()):
        if kind == "xfs":
            megabytes = max(megabytes, XFS_MEGABYTES_MIN)
        made.append(Disk(home, f"disk-{len(made)}", kind, megabytes, options))
        return made[-1]

    try:
        yield make
    finally:
        for disk in made:
            disk.end()
        subprocess.run(["umount", "-l", str(home)], check=False)


def files_below(directory):
    """Every regular file, as pathlib.Path."""
    return [path for path in pathlib.Path(directory).rglob("*") if path.is_file()]


@contextlib.contextmanager
def injected(node, calls, outcome, paths=()):
    """Has these system calls of the running node end like that and do nothing, on these files or on
    all. Its rings are out of reach, but warm files are written by plain calls."""
    if shutil.which("strace") is None:
        pytest.fail("needs strace: apt-get install -y strace")
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={calls}",
               "-e", f"inject={calls}:{outcome}", "-p", str(node.process.pid)]
    tracer = subprocess.Popen(command + [word for path in paths for word in ("-P", str(path))])

    def is_traced():
        assert tracer.poll() is None, "strace does not attach"
        tasks = pathlib.Path(f"/proc/{node.process.pid}/task").glob("*/status")
        return all(f"TracerPid:\t{tracer.pid}" in path.read_text() for path in tasks)

    try:
        wait_until(is_traced, "strace does not attach", patient=True)
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        try:
            tracer.wait(5)
        except subprocess.TimeoutExpired:
            # It may wait for ever for a thread that has ended with its process.
            tracer.kill()
            tracer.wait(20)
