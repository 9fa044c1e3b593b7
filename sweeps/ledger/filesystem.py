"""Whether a path lies on a network filesystem, where SQLite's write-ahead log does not work (sqlite.org/wal.html)."""

from __future__ import annotations

from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
NETWORK = {
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "fuse.glusterfs", "9p"),
    *("afs", "pvfs2", "orangefs", "wekafs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.juicefs"),
}


def network_filesystem(path: Path, mounts: str | None = None) -> str | None:
    """The type of the network filesystem that `path` is on; None where it is on none, or the system does not say.

    `mounts` is the mount table's text, by default this machine's.
    """
    if mounts is None:
        mounts = MOUNTS.read_text() if MOUNTS.exists() else ""
    resolved, longest, found = path.resolve(), -1, None
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        where = Path(fields[1].replace("\\040", " "))
        # Of equally long ones the last was mounted on top.
        if (resolved == where or where in resolved.parents) and len(where.parts) >= longest:
            longest, found = len(where.parts), fields[2]
    return found if found in NETWORK else None
