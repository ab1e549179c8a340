"""A disk that can lose its power: ext4 in a file, mounted through a loop device. For root only.

The ioctl EXT4_IOC_SHUTDOWN with NOLOGFLUSH stops the file system at once: what was not synced is gone, as if the power had
failed. After that every call of the broker on it fails; then it is killed, and the disk is mounted again.
"""

import fcntl
import os
import pathlib
import struct
import subprocess

EXT4_IOC_SHUTDOWN = 0x8004587D
NOLOGFLUSH = 2


class Disk:
    """An image beside the run's files, mounted at `mount`."""

    def __init__(self, folder: pathlib.Path, megabytes: int = 2048):
        self.image = folder / "disk.img"
        self.mount = folder / "disk"
        self.mount.mkdir()
        with self.image.open("wb") as file:
            file.truncate(megabytes << 20)
        call("mkfs.ext4", "-q", "-F", str(self.image))
        self.plug_in()

    def plug_in(self) -> None:
        call("mount", "-o", "loop", str(self.image), str(self.mount))

    def cut(self) -> None:
        """The power fails. The processes that use the disk still run."""
        handle = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, EXT4_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(handle)

    def come_back(self) -> None:
        """The power is there again; nobody uses the disk now. The journal is played when it is mounted."""
        self.unplug()
        found = subprocess.run(["e2fsck", "-p", str(self.image)], capture_output=True, text=True)
        if found.returncode >= 4:
            raise RuntimeError(f"e2fsck: {found.returncode}\n{found.stdout}{found.stderr}")
        self.plug_in()

    def unplug(self) -> None:
        call("umount", str(self.mount))

    def prove(self) -> None:
        """A synced file stays, an unsynced one goes: otherwise the cut proves nothing."""
        synced, unsynced = self.mount / "synced", self.mount / "unsynced"
        with synced.open("wb") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(self.mount, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
        unsynced.write_bytes(b"x" * 4096)
        self.cut()
        self.come_back()
        if not synced.exists() or synced.read_bytes() != b"x" * 4096 or unsynced.exists():
            raise RuntimeError("a power cut on this machine does not do what it should")
        synced.unlink()


def call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
