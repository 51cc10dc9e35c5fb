"""The package from Python: what it offers, returns and leaves alone."""

import inspect
import json
import signal
import subprocess
import sys
import threading

import pytest
from support.places import REPOSITORY
from support.runs import SMALL_NET, student_of

import overhaul as package
from overhaul import api
from overhaul.system.messages import UserError
from overhaul.training import trainer

SMALL = {"setup": "digits_teacher", "student": SMALL_NET, "image_size": 16, "epochs": 1}


def python(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout


def test_the_package_offers_its_functions_and_imports_them_when_they_are_used():
    """0.2 s with room for a busy machine: what is counted is what has been imported."""
    script = "import sys, overhaul; before = set(sys.modules); names = [getattr(overhaul, n) for n in overhaul.__all__]"
    script += "; print([m for m in before if m.startswith('overhaul')], len(before), 'torch' in before)"
    rooms, count, torch = python(script).strip().rsplit(" ", 2)
    assert (rooms, torch) == ("['overhaul']", "False") and int(count) < 150
    assert {"train", "evaluate", "predict", "pull", "push", "export", "prepare", "bench", "setups", "load"} < set(
        package.__all__
    )
    assert package.__version__ == "0.1.0" and package.UserError is UserError
    assert (REPOSITORY / "overhaul" / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        _ = package.distil


def test_rooms_that_bear_the_name_of_a_function_are_both():
    """Whatever has been imported before."""
    script = (
        "import overhaul.train, overhaul.bench, overhaul.setups, overhaul.methods\n"
        "print(len(overhaul.setups()), overhaul.bench.make_step.__name__, len(overhaul.setups.SETUPS))\n"
        "print(len(overhaul.models()) == len(overhaul.models.FAMILIES), overhaul.setups('cifar_c')['lr'])\n"
        "print(overhaul.methods.parts('overhaul+kd')[1], overhaul.methods(setup='own')[4]['method'])\n"
        "for call in (lambda: overhaul.train('cifar_q'), lambda: overhaul.bench(setup='cifar_q')):\n"
        "    try: call()\n"
        "    except overhaul.UserError as error: print('cifar_q' in str(error))\n"
    )
    assert python(script).split() == ["15", "make_step", "15", "True", "0.1", "kd", "kd", "True", "True"]


@pytest.mark.parametrize("name", sorted({*package.__all__} - {"UserError", "__version__"}))
def test_every_function_says_what_its_arguments_are(name):
    function = getattr(api, name)
    for argument, parameter in inspect.signature(function).parameters.items():
        assert parameter.annotation is not inspect.Parameter.empty, argument
        assert f"    {argument}: " in inspect.getdoc(function), argument


def test_a_run_from_python_prints_nothing_and_returns_its_result(tmp_path, capfd):
    result = package.train(**SMALL, output_dir=str(tmp_path / "run"), seed=3)
    assert capfd.readouterr().out == ""
    assert result.final["epoch"] == 1 and result.teacher_top1 is None
    measured = package.evaluate(result.folder, data="digits")
    assert measured == {"top1": result.final["test_top1"], "top5": result.final["test_top5"], "images": 360}
    shown = package.train(**SMALL, output_dir=str(tmp_path / "other"), seed=3, show=True)
    assert "final student: " in capfd.readouterr().out
    assert student_of(shown.folder) == student_of(result.folder)
    (answer,) = package.predict(result.folder, [picture(tmp_path)], top=2)
    assert len(answer["classes"]) == 2 and json.dumps(answer)


def picture(folder) -> str:
    from PIL import Image

    Image.new("RGB", (20, 24)).save(folder / "image.png")
    return str(folder / "image.png")


def test_signals_are_left_alone_in_a_program_of_another(tmp_path, monkeypatch):
    """In a notebook's main thread as in any other: no handler is installed, and no launcher's death is watched."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr("ctypes.CDLL.prctl", lambda *_: pytest.fail("it would be told to stop"), raising=False)
    seen, after_step = [], trainer.Trainer.after_step

    def look(self) -> None:
        seen.append({number: signal.getsignal(number) for number in before})
        after_step(self)

    monkeypatch.setattr(trainer.Trainer, "after_step", look)
    package.train(**SMALL, output_dir=str(tmp_path / "here"))
    thread = threading.Thread(target=package.train, kwargs={**SMALL, "output_dir": str(tmp_path / "there")})
    thread.start()
    thread.join()
    assert (tmp_path / "there" / "final" / "model.safetensors").is_file()
    assert len(seen) == 2 * 22 and all(each == before for each in seen)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: package.train("cifar_z"), "did you mean cifar_"),
        (lambda: package.train("digits", epoch=3), r"no setting epoch \(did you mean epochs\?\)"),
        (lambda: package.train("digits", method="kdd"), "--method: 'kdd' is not known.*original, overhaul"),
        (lambda: package.setups("cifar_z"), "did you mean cifar_"),
        (lambda: package.train("digits", lr=-1), "--lr must be 0 or more"),
        (lambda: package.train("digits", resume="yes"), "auto, never"),
        (lambda: package.train("digits_teacher", teacher="x"), "trains the student alone"),
        (lambda: package.train("digits"), "needs a trained teacher"),
        (lambda: package.evaluate("nowhere.pt", data="digits"), "no such file or folder"),
        (lambda: package.evaluate("x", data="digits", workers=-1), "--workers must be 0 or more"),
        (lambda: package.predict("nowhere.pt", ["a.png"]), "no such file or folder"),
        (lambda: package.export("nowhere.pt", format="onxx", out="x"), "did you mean onnx"),
        (lambda: package.prepare(data="digits", out="x"), "need no preparation"),
        (lambda: package.bench(steps=0), "at least 1"),
        (lambda: package.push("nowhere", "me/x"), "is not the folder of a run"),
        (lambda: package.pull("a b", out="x"), "is named USER/REPO"),
    ],
)
def test_what_the_user_can_mend_is_a_value_error(call, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words) as raised:
        call()
    assert type(raised.value) is UserError
    assert list(tmp_path.iterdir()) == []
