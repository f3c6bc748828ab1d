"""sample.py on the folder of a run that somebody sent: nothing of it is executed, nothing written.

Every folder of `hostile_runs` is given to sample.py, in one process that records what Python is
asked to do (`sys.addaudithook`). What the hook does not see, the C++ of tensorstore, would show in
the files: every folder is compared with what it was.
"""

import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from lnjax.training import manifest
from lnjax.training.checkpoint import CheckpointError, Checkpoints
from tests import runs
from tests.faults import hostile_runs
from tests.runs import caches as caches

# Starting programs, connecting to somewhere, loading objects; and every change of a file.
PROGRAM = """
import contextlib, io, json, os, sys, traceback
from absl import flags
import sample

asked, heard = [], {
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen",
    "socket.connect", "socket.getaddrinfo", "urllib.Request", "ftplib.connect",
    "http.client.connect",
    "pickle.find_class", "marshal.load", "marshal.loads", "ctypes.dlopen", "shutil.move",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod",
}
writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
def listen(event, args):
    if event in heard:
        asked.append([event, *map(str, args[:2])])
    elif event == "open" and isinstance(args[2], int) and args[2] & writes:
        asked.append([event, str(args[0])])
    elif event == "import" and "evil" in args[0]:
        asked.append([event, args[0]])

def call(arguments):
    flags.FLAGS.unparse_flags()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = sample.main(flags.FLAGS(["sample.py", *arguments]))
        except BaseException:
            code = traceback.print_exc()
    return [code, out.getvalue(), err.getvalue()]

good, *rest = json.loads(sys.argv[1])
told = [call(good)]  # what is loaded and compiled by any run is so by this one
sys.addaudithook(listen)
for arguments in rest:
    asked.clear()
    told.append([*call(arguments), list(asked)])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strangers")


@pytest.fixture(scope="module")
def told(tmp_path_factory, folder):
    """By case: exit code, stdout, stderr and what Python was asked to do."""
    reference = runs.reference(tmp_path_factory)
    (folder / "cwd").mkdir()
    before, calls = {}, [[f"--workdir={reference}", f"--out={folder / 'good.svg'}", "--text=ab"]]
    for number, (name, case) in enumerate(hostile_runs.CASES.items()):
        run = folder / f"run-{number}"
        shutil.copytree(reference, run, ignore=shutil.ignore_patterns("tensorboard", "samples"))
        case.change(run)
        before[name] = runs.contents(run)
        calls.append([f"--workdir={run}", f"--out={folder / f'{number}.svg'}", "--text=ab"])
    done = runs.run(["-c", PROGRAM, json.dumps(calls)])
    assert done.returncode == 0, done.stderr
    good, *rest = json.loads(done.stdout.splitlines()[-1])
    assert good[0] == 0, good
    for number, name in enumerate(hostile_runs.CASES):
        assert runs.contents(folder / f"run-{number}") == before[name], name
    return dict(zip(hostile_runs.CASES, rest, strict=True))


@pytest.mark.parametrize("name", hostile_runs.CASES)
def test_it_executes_nothing(told, folder, name):
    code, out, err, asked = told[name]
    case = hostile_runs.CASES[name]
    number = list(hostile_runs.CASES).index(name)
    written = folder / f"{number}.svg"
    # --out is written beside itself and renamed
    others = [each for each in asked if not each[1].startswith((str(written), "-1"))]
    assert others == [], others
    assert not list(folder.rglob("executed")) and not (runs.ROOT / "executed").exists()
    if case.told is None:
        assert code == 0, err
        assert written.read_bytes() == (folder / "good.svg").read_bytes() or "refused" in err
    else:
        assert code == 2 and out == "" and not written.exists()
        # Of reads that run at the same time and fail too, asyncio may print what nobody waits for.
        err = err[err.index("error: ") :]
        assert all(word in err for word in case.told), err
        assert len(err) < 10_000 and err.isascii() and "\x1b" not in err
        assert all(line.startswith("  ") for line in err.split("\n")[1:-1])


def test_no_array_is_made_that_the_files_could_not_fill(tmp_path):
    """A config and an info that agree on arrays of terabytes, over a checkpoint of a few bytes."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(7, {"w": jnp.ones(4)}, {})
    leaves = {"w": f"float32[{1 << 40}]"}
    hostile_runs.edit(tmp_path / "7/info/metadata", lambda found: {**found, "leaves": leaves})
    manifest.write_sums(tmp_path / "7", tmp_path / "7.sha256", "7")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match=f"the config makes arrays of {4 << 40}"):
            checkpoints.restore({"w": jax.ShapeDtypeStruct((1 << 40,), jnp.float32)})
