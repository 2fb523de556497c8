"""Read regular files, and write files and folders atomically.

Reading: `open_regular` opens only regular files, so reading never blocks.

Writing: `whole_file` and `whole_folder` yield a temporary path beside the target. The path is
renamed to the target if the block ends without an exception, and removed otherwise. A killed
process leaves its temporary folder behind; the next process that writes there removes it.
`check_output` checks in advance that an output can be written.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Any, BinaryIO

from clinreadnet.errors import InputError, first_line

fcntl: Any = None  # not on Windows: there, stale temporary folders are not removed
with suppress(ImportError):
    import fcntl

AnyPath = str | os.PathLike[str]

STDOUT = "-"
"""Path that means standard output."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_BINARY = getattr(os, "O_BINARY", 0)
_WITHOUT_WAITING = _BINARY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
FREE_MARGIN = 2**20  # bytes that stay free
READER_SECONDS = 30.0  # in which a program must open a pipe to read it
_SUFFIX = ".writing"
_MARK = ".clinreadnet-writes"
_NAME_CHARACTERS = 40  # of the target, in the name of its temporary folder
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


# Reading


def open_regular(path: AnyPath) -> BinaryIO:
    """Open a regular file for reading without blocking.

    Raises:
        InputError: the file does not exist, cannot be read, or is a folder, pipe, socket or device.
    """
    flags = os.O_RDONLY | _WITHOUT_WAITING
    try:
        # A device is never opened, because opening can rewind a tape. If the path is replaced by a
        # pipe after this check, opening does not block.
        if stat.S_ISREG(mode := os.stat(path).st_mode):
            file = open(os.open(path, flags), "rb")
            if stat.S_ISREG(mode := os.fstat(file.fileno()).st_mode):
                return file
            file.close()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise InputError(f"{os.fspath(path)}: {_why_unreadable(path, error)}") from None
    raise InputError(
        f"{os.fspath(path)}: {_KINDS.get(stat.S_IFMT(mode), 'not a file')}; give a regular file"
    )


def read_regular(path: AnyPath, limit: int) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: the file.
        limit: largest accepted size in bytes.

    Raises:
        InputError: as in `open_regular`, or the file is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise InputError(f"{os.fspath(path)}: {size} bytes; at most {limit} are read")
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise InputError(f"{os.fspath(path)}: cannot be read ({error.strerror})") from None
    if len(content) > limit:  # the file grows, or its file system states no size
        raise InputError(f"{os.fspath(path)}: more than {limit} bytes; no more are read")
    return content


def read_toml(path: AnyPath, limit: int) -> dict[str, Any]:
    """Return the content of a TOML file.

    Args:
        path: the file.
        limit: largest accepted size in bytes.

    Raises:
        InputError: as in `read_regular`, or the file is not TOML.
    """
    content, name = read_regular(path, limit), os.fsdecode(path)
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise InputError(f"{name}: not a TOML file (not UTF-8)") from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of 5000 digits
        raise InputError(f"{name}: not a TOML file ({first_line(error)})") from None


def same_file(path: AnyPath) -> tuple[int, int] | None:
    """Return an identifier of the file, equal for all its names; None if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _why_unreadable(path: AnyPath, error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "not a file name"
    if error.errno == errno.ELOOP:
        return "a link that leads to itself; remove it"
    if isinstance(error, FileNotFoundError):
        with suppress(OSError):
            if os.path.islink(path):
                return "a broken link; remove it or restore its target"
        return "no such file"
    return f"cannot be read ({error.strerror or error})"


# Writing


def check_output(
    target: AnyPath,
    *,
    inputs: Iterable[AnyPath] = (),
    size: int = 0,
    suffixes: Sequence[str] = (),
) -> None:
    """Check, before a long computation, that a file can be written.

    Args:
        target: as in `whole_file`.
        inputs: input files; ``target`` must not be one of them.
        size: approximate size of the output in bytes.
        suffixes: suffixes of the format, such as ``.pdf``; empty for any. Standard output, pipes
            and devices have none.

    Raises:
        InputError: ``target`` is an input, a folder or write-protected, has another suffix, its
            folder does not exist or cannot be written, or there is too little space.
    """
    target = Path(target)
    place = _destination(target)
    if str(target) == STDOUT:
        return
    if (identity := same_file(target)) is not None:
        for path in inputs:
            if same_file(path) == identity:
                raise InputError(f"{target}: is also an input ({path}); name another file")
    if place is not None:
        if suffixes and not target.name.lower().endswith(tuple(suffixes)):
            raise InputError(f"{target}: give a name that ends in {' or '.join(suffixes)}")
        if place.exists() and not os.access(place, os.W_OK):
            raise InputError(f"{target}: is write-protected; name another file")
        _check_folder(place, target, size)


def check_distinct(outputs: Mapping[str, AnyPath | None]) -> None:
    """Check that outputs have different paths and that none lies inside another.

    Args:
        outputs: path of each output by parameter name; None for an output that is not requested.

    Raises:
        InputError: two outputs have the same path, or one contains the other.
    """
    places = {
        name: Path(STDOUT) if str(target) == STDOUT else Path(os.path.realpath(target))
        for name, target in outputs.items()
        if target is not None
    }
    for (a, first), (b, second) in combinations(places.items(), 2):
        if first == second:
            raise InputError(f"{outputs[b]}: `{a}` and `{b}` name one place; name another")
        if first in second.parents or second in first.parents:
            raise InputError(f"`{a}` and `{b}`: one lies inside the other; name another place")


def check_output_folder(
    target: AnyPath, *, force: bool | None = False, inputs: Iterable[AnyPath] = (), size: int = 0
) -> None:
    """Check, before a long computation, that a folder can be written.

    Args:
        target: as in `whole_folder`.
        force: as in `whole_folder`; None if the caller has no such option.
        inputs: input files and folders; none may be ``target`` or lie inside it.
        size: approximate size of the output in bytes.

    Raises:
        InputError: as in `whole_folder`, an input would be replaced, or there is too little space.
    """
    target = Path(target)
    place = _folder_place(target, force)
    if place.exists():
        for path in (*inputs, os.getcwd()):
            if Path(os.path.realpath(path)).is_relative_to(place):
                what = "the current folder" if path == os.getcwd() else f"an input ({path})"
                raise InputError(f"{target}: holds {what}, so it is not replaced; name another")
    _check_folder(place, target, size)


@contextmanager
def whole_file(target: AnyPath) -> Iterator[Path]:
    """Yield a temporary path that becomes ``target`` if the block succeeds.

    A regular file is replaced atomically and keeps its mode. For a symbolic link, the linked file
    is replaced. Standard output (``-``), pipes and character devices are written directly.

    Raises:
        InputError: the parent folder does not exist, or ``target`` is a folder, socket or disk.
        OSError: writing failed and ``target`` is unchanged. ``filename`` is ``target``.
    """
    target = Path(target)
    place = _destination(target)
    if place is None:
        with tempfile.TemporaryDirectory(prefix="clinreadnet-") as scratch:
            made = Path(scratch) / (target.name if str(target) != STDOUT else "stdout")
            yield made
            _write_through(target, made)
        return
    with _beside(place, target) as folder:
        made = folder / target.name
        yield made
        _flush_to_disk(made)
        _keep_mode(place, made)
        os.replace(made, place)


@contextmanager
def whole_folder(target: AnyPath, *, force: bool | None = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``target`` if the block succeeds.

    Args:
        target: folder to create.
        force: replace ``target`` if it exists; the old folder remains until the new one is
            complete. None means False, without advice to use ``force`` in the error.

    Raises:
        InputError: ``target`` exists and ``force`` is false, ``target`` is a file or has no parent
            folder, or another process wrote it in the meantime.
        OSError: writing failed and ``target`` is unchanged. ``filename`` is ``target``.
    """
    target = Path(target)
    place = _folder_place(target, force)
    with _beside(place, target) as folder:
        made = folder / "new"
        made.mkdir()
        yield made
        if force and _exchange(made, place):
            return
        if force:
            with suppress(FileNotFoundError):
                os.replace(place, folder / "old")
        try:
            os.replace(made, place)
        except OSError:
            if place.exists():
                raise InputError(
                    f"{target}: another process wrote it meanwhile and its folder stays; name "
                    "another folder, or write one at a time"
                ) from None
            if (folder / "old").exists():
                os.replace(folder / "old", place)
            raise


def is_temporary(name: str) -> bool:
    """Return whether a name is that of a temporary folder of `whole_file` or `whole_folder`."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def _destination(target: Path) -> Path | None:
    """Return the regular file that an output replaces or creates, or None."""
    if str(target) == STDOUT:
        return None
    try:
        status = os.stat(target)
    except FileNotFoundError:
        return Path(os.path.realpath(target))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{target}: cannot be written ({reason}); name another file") from None
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{target}: is a folder; name a file")
    if (
        stat.S_ISFIFO(status.st_mode)
        or stat.S_ISCHR(status.st_mode)
        or _standard(status) is not None
    ):
        return None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{target}: is a socket or a disk; name a file")
    return Path(os.path.realpath(target))


def _standard(status: os.stat_result) -> int | None:
    """Return the standard stream of a file such as ``/dev/stdout``, or None."""
    for number in (1, 2):
        with suppress(OSError):
            if os.path.samestat(status, os.fstat(number)) and status.st_ino:
                return number
    return None


def _folder_place(target: Path, force: bool | None) -> Path:
    """Return the folder that will be created or replaced."""
    try:
        exists, folder = os.path.lexists(target), target.is_dir()
        place = Path(os.path.realpath(target))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{target}: cannot be written ({reason}); name another folder") from None
    if exists and target.exists() and not folder:
        raise InputError(f"{target}: is a file; name a folder")
    if folder and not force:
        advice = "remove it" if force is None else "give force=True"
        raise InputError(f"{target}: already exists; {advice}, or name another")
    return place


def _check_folder(place: Path, target: Path, size: int) -> None:
    """Check that files can be written beside ``place`` and that there is enough space."""
    try:
        with _beside(place, target):
            pass
        free = shutil.disk_usage(place.parent).free
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}); name another place"
        ) from None
    if free < size + FREE_MARGIN:
        raise InputError(
            f"{target}: needs about {_megabytes(size + FREE_MARGIN)}, and {_megabytes(free)} are "
            "free there; free some space or name another place"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e6:.1f} MB"


@contextmanager
def _beside(place: Path, target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``place``; an error in it names ``target``."""
    if not place.parent.is_dir():
        named = place.parent if target.is_symlink() else target.parent
        raise InputError(f"{named}: no such folder; create it first")
    remove_stale(place.parent)
    folder: Path | None = None
    try:
        folder, lock = _locked_folder(place)
        try:
            yield folder
        finally:
            _remove(folder)
            if lock is not None:
                os.close(lock)
    except OSError as error:
        if error.errno is None and "requested and" in str(error):  # NumPy, after a short write
            full = errno.ENOSPC
            raise OSError(full, os.strerror(full), str(target)) from error
        inside = folder is not None and str(error.filename or "").startswith(str(folder))
        if inside or (error.filename is None and error.errno in _FULL):
            error.filename, error.filename2 = str(target), None
        raise


def _locked_folder(place: Path) -> tuple[Path, int | None]:
    """Make a folder beside ``place`` and lock it until this process ends."""
    while True:
        folder = Path(
            tempfile.mkdtemp(
                prefix=f".{place.name[:_NAME_CHARACTERS]}.", suffix=_SUFFIX, dir=place.parent
            )
        )
        lock = None
        try:
            os.chmod(folder, 0o755)
            if fcntl is None:
                return folder, None
            mark = folder / _MARK
            lock = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with suppress(OSError):  # a file system without locks: stale folders are not removed
                fcntl.flock(lock, fcntl.LOCK_EX)
            os.write(lock, os.fsencode(place.name))
            if same_file(mark) == (os.fstat(lock).st_dev, os.fstat(lock).st_ino):
                return folder, lock
            os.close(lock)
        except FileNotFoundError:  # another process removed it as stale
            pass
        except BaseException:
            _remove(folder)
            if lock is not None:
                os.close(lock)
            raise


def remove_stale(parent: Path) -> None:
    """Remove the temporary folders of dead processes and restore what they had moved."""
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if not is_temporary(entry.name):
                continue
            with suppress(OSError):
                if entry.is_dir(follow_symlinks=False) and entry.stat().st_uid == os.getuid():
                    _remove_if_stale(Path(entry.path))


def _remove_if_stale(folder: Path) -> None:
    try:
        lock = os.open(folder / _MARK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        os.rmdir(folder)  # only if it is empty
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        place = folder.parent / Path(os.fsdecode(os.read(lock, 4096))).name
        if (folder / "old").is_dir() and not os.path.lexists(place):
            os.replace(folder / "old", place)
        _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a folder, even if a stopping process still writes into it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(0.05)


def _exchange(made: Path, place: Path) -> bool:
    """Exchange two folders atomically; return False if the system cannot."""
    if sys.platform != "linux" or not place.is_dir():
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    ends = os.fsencode(made), os.fsencode(place)
    return bool(rename(_AT_FDCWD, ends[0], _AT_FDCWD, ends[1], _RENAME_EXCHANGE) == 0)


def _keep_mode(place: Path, made: Path) -> None:
    """Copy the mode and the owner of the replaced file to the new file."""
    try:
        old = os.stat(place)
    except FileNotFoundError:
        return
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(made, old.st_uid, old.st_gid)
    os.chmod(made, stat.S_IMODE(old.st_mode))


def _flush_to_disk(path: Path) -> None:
    """Flush a file to disk. A full disk can raise only here."""
    number = os.open(path, os.O_RDWR | _BINARY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _write_through(target: Path, made: Path) -> None:
    """Copy a finished file to standard output, a pipe or a device."""
    number = _open_through(target)
    try:
        with made.open("rb") as file:
            while block := file.read(2**16):
                while block:
                    block = block[os.write(number, block) :]
    except OSError as error:
        if str(target) == STDOUT and isinstance(error, BrokenPipeError):
            raise  # the reader, such as `| head`, has closed the pipe
        raise OSError(error.errno, error.strerror, str(target)) from None
    finally:
        os.close(number)


def _open_through(target: Path) -> int:
    if str(target) == STDOUT:
        sys.stdout.flush()
        return os.dup(1)
    status = os.stat(target)
    if (number := _standard(status)) is not None:
        (sys.stdout if number == 1 else sys.stderr).flush()
        return os.dup(number)
    end = time.monotonic() + READER_SECONDS
    while True:
        try:
            number = os.open(target, os.O_WRONLY | _WITHOUT_WAITING)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > end:
                raise InputError(
                    f"{target}: no program reads this pipe; start one, or name a file"
                ) from None
            time.sleep(0.05)
        else:
            if hasattr(os, "set_blocking"):
                os.set_blocking(number, True)
            return number
