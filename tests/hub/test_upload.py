"""Uploads by the real `huggingface_hub`, to a server that speaks the Hub's API: one commit, or a sentence and none."""

from __future__ import annotations

import logging
import math

import pytest

from efficient_reasoning import cli
from efficient_reasoning.errors import BadInput
from efficient_reasoning.files import write_json
from efficient_reasoning.hub import publish, upload_folder
from efficient_reasoning.hub.upload import RETRY_PAUSES_SECONDS
from tests.hub.hub_server import LARGE_BYTES, TOKEN, Failure, Repository, files_of

NAME = "ORG/concise-tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture
def everything_said(capsys, caplog):
    """All that was printed and logged so far, by anyone."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("huggingface_hub").setLevel(logging.DEBUG)
    return lambda: "".join(capsys.readouterr()) + caplog.text


@pytest.fixture
def fits(model):
    """The weights are a large file, and it goes up in one piece."""
    assert (model / WEIGHTS).stat().st_size > LARGE_BYTES
    return model


def test_a_dry_run_asks_the_hub_for_nothing(run, model, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    publish(run, model, NAME, dry_run=True, public=True)
    assert hub.requests == []


@pytest.mark.parametrize("part_bytes", [None, 3000])
def test_one_commit_carries_exactly_the_folder(run, fits, hub, everything_said, part_bytes):
    hub.part_bytes = part_bytes
    folder = publish(run, fits, NAME, dry_run=False)
    repository = hub.model()
    assert len(repository.commits) == 1
    assert set(repository.files) == files_of(folder) | {".gitattributes"}
    assert all((folder / path).read_bytes() == repository.files[path] for path in files_of(folder))
    sizes = [(folder / path).stat().st_size for path in files_of(folder)]
    pieces = [1 if part_bytes is None else math.ceil(size / part_bytes) for size in sizes if size >= LARGE_BYTES]
    assert len(hub.lines("PUT /storage")) == sum(pieces) >= 3
    # The commit comes last, after all that it makes visible.
    assert [line for line, _, _ in hub.requests][-1] == f"POST /api/models/{NAME}/commit/main"
    assert f"Uploaded {folder} to {hub.address}/{NAME}" in (said := everything_said()) and TOKEN not in said
    assert not any(TOKEN.encode() in body for _, _, body in hub.requests)
    assert not any(authorization for line, authorization, _ in hub.requests if "/storage/" in line)
    assert hub.pauses == []


@pytest.mark.parametrize("public", [False, True])
def test_private_unless_public(model, hub, capsys, public):
    upload_folder(model, NAME, public=public)
    assert hub.model().private is not public
    assert "was there before" not in capsys.readouterr().out


@pytest.mark.parametrize("private", [False, True])
def test_an_existing_repository_keeps_its_visibility_and_it_is_said(model, hub, capsys, private):
    hub.repositories["models", NAME] = Repository(private)
    upload_folder(model, NAME, public=private)
    assert hub.model().private is private and WEIGHTS in hub.model().files
    assert f"{NAME} was there before and stays {'private' if private else 'public'}" in capsys.readouterr().out


def test_a_training_output_is_uploaded_without_its_states(model, hub):
    upload_folder(model, "concise-tiny")
    sent = set(hub.model("me/concise-tiny").files)
    assert {WEIGHTS, "recipe.yaml", "README.md"} <= sent
    assert not {"optimizer.pt", "training_args.bin", "trainer_state.json", "run.json", "plot.py"} & sent


def test_what_an_earlier_upload_left_is_taken_away_and_nothing_else(model, hub):
    """Shards beside a whole file: transformers would load the older one."""
    left = ["model-00001-of-00002.safetensors", "model.safetensors.index.json", "evaluation/example.json"]
    kept = [".gitattributes", "LICENSE", "notes.md", "data/config.json"]
    hub.repositories["models", NAME] = Repository(True, dict.fromkeys((*left, *kept, "config.json"), b"old"))
    upload_folder(model, NAME)
    assert set(kept) <= set(hub.model().files) and not set(left) & set(hub.model().files)
    assert len(hub.model().commits) == 1 and set(left) < set(hub.model().commits[0])
    assert hub.model().files["config.json"] == (model / "config.json").read_bytes()


def test_the_same_again_commits_nothing(model, hub):
    upload_folder(model, NAME)
    upload_folder(model, NAME)
    assert len(hub.model().commits) == 1
    assert len(hub.lines("PUT /storage")) == 1


# ---- failures that pass ----

STEPS = {
    "create": "POST /api/repos/create",
    "info": f"GET /api/models/{NAME}$",
    "card": "POST /api/validate-yaml",
    "preupload": "POST .*/preupload/",
    "batch": "POST .*/info/lfs/objects/batch",
    "put": "PUT /storage/",
    "commit": "POST .*/commit/",
}


@pytest.mark.parametrize("status", [429, 500, 503, None])
@pytest.mark.parametrize("step", STEPS)
def test_what_passes_is_tried_again(fits, hub, everything_said, step, status):
    hub.failures.append(Failure(STEPS[step], status, times=3))
    upload_folder(fits, NAME)
    assert len(hub.model().commits) == 1 and hub.model().files[WEIGHTS] == (fits / WEIGHTS).read_bytes()
    assert hub.pauses == [1, 2, 4]
    assert TOKEN not in everything_said()


def test_a_part_is_tried_again_alone(fits, hub):
    hub.part_bytes = 3000
    hub.failures.append(Failure("PUT /storage/.*/2$", None))
    upload_folder(fits, NAME)
    assert hub.model().files[WEIGHTS] == (fits / WEIGHTS).read_bytes()
    assert len(hub.lines("PUT /storage/.*/1$")) == 1


def test_the_pause_that_the_hub_asks_for_is_kept(fits, hub):
    hub.failures.append(Failure(STEPS["commit"], 429, headers={"Retry-After": "30"}))
    hub.failures.append(Failure(STEPS["commit"], 429, headers={"RateLimit": '"api";r=0;t=55'}))
    hub.failures.append(Failure(STEPS["create"], 429, headers={"Retry-After": "100000"}))
    upload_folder(fits, NAME)
    assert hub.pauses == [300, 30, 56]


def test_a_page_of_a_gateway_is_no_answer(fits, hub):
    hub.failures.append(Failure(STEPS["card"], 502, body=b"<html>Bad gateway</html>"))
    upload_folder(fits, NAME)
    assert len(hub.model().commits) == 1 and hub.pauses == [1]


def test_a_commit_whose_answer_is_lost_is_not_made_twice(fits, hub):
    hub.failures.append(Failure(STEPS["commit"], None, late=True))
    upload_folder(fits, NAME)
    assert len(hub.model().commits) == 1 and len(hub.lines("PUT /storage")) == 1


# ---- failures that do not ----


@pytest.mark.parametrize("status", [429, 500, None])
@pytest.mark.parametrize("step", STEPS)
def test_what_does_not_pass_is_a_sentence_and_nothing_is_visible(fits, hub, everything_said, step, status):
    hub.failures.append(Failure(STEPS[step], status, times=1000))
    with pytest.raises(BadInput, match="run the same command again") as caught:
        upload_folder(fits, NAME)
    assert ("models", NAME) not in hub.repositories or set(hub.model().files) == {".gitattributes"}
    # As often as `huggingface_hub` tries where it tries by itself, and not as often as both together.
    assert len(hub.pauses) == len(RETRY_PAUSES_SECONDS) == 5
    assert caught.value.__cause__ is None and "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value) + everything_said()


@pytest.mark.parametrize("step", ["put", "commit"])
def test_the_same_command_resumes(fits, hub, step):
    """What has arrived is not sent again."""
    hub.part_bytes = None
    hub.failures.append(Failure(STEPS[step], 500, times=6))
    with pytest.raises(BadInput, match="what has arrived is not sent again"):
        upload_folder(fits, NAME)
    arrived = len(hub.blobs)
    upload_folder(fits, NAME)
    assert hub.model().files[WEIGHTS] == (fits / WEIGHTS).read_bytes()
    assert len(hub.lines("PUT /storage")) == (7 if step == "put" else 1)
    assert arrived == (step == "commit")


@pytest.mark.parametrize(
    ("step", "status", "remedy"),
    [
        ("create", 401, "hf auth login"),
        ("create", 402, "billing"),
        ("create", 403, "write permission"),
        ("create", 404, "check the spelling"),
        ("commit", 401, "hf auth login"),
        ("commit", 403, "write permission"),
        ("commit", 409, "another change"),
        ("commit", 412, "another change"),
        ("batch", 403, "write permission"),
        ("put", 403, "run the same command again"),
        ("commit", 413, "smaller shards"),
        ("commit", 418, r"the Hub refuses \(418: "),
    ],
)
def test_a_refusal_is_a_sentence_at_once(run, fits, hub, everything_said, step, status, remedy):
    """The server says the token back; no message has it."""
    hub.failures.append(Failure(STEPS[step], status, times=1000))
    with pytest.raises(BadInput, match=remedy) as caught:
        publish(run, fits, NAME, dry_run=False)
    assert str(status) in str(caught.value) and hub.pauses == []
    assert TOKEN not in str(caught.value) + everything_said()
    assert ("models", NAME) not in hub.repositories or hub.model().commits == []
    folder = run / "hub"
    assert not any(TOKEN.encode() in (folder / path).read_bytes() for path in files_of(folder))


def test_a_commit_in_between_is_not_overwritten(fits, hub, monkeypatch):
    from huggingface_hub import HfApi

    real = HfApi.preupload_lfs_files

    def meanwhile(api, *words, **settings):
        hub.model().commits.append(["notes.md"])
        return real(api, *words, **settings)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", meanwhile)
    with pytest.raises(BadInput, match="another change to the repository came in between"):
        upload_folder(fits, NAME)
    assert set(hub.model().files) == {".gitattributes"}


def test_a_card_that_the_hub_refuses(fits, hub):
    card = (fits / "README.md").read_text()
    (fits / "README.md").write_text(card.replace("---\n", "---\nmodel-index:\n- name: 3\n  results: []\n", 1))
    with pytest.raises(BadInput, match=r"Invalid metadata in README\.md"):
        upload_folder(fits, NAME)
    assert hub.model().commits == [] and hub.blobs == {}


def test_without_a_token_nothing_is_built(run, model, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(BadInput, match="There is no access token for the Hub; run `hf auth login`"):
        publish(run, model, NAME, dry_run=False)
    assert not (run / "hub").exists() and hub.requests == []


def test_offline_is_said(model, hub, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match="HF_HUB_OFFLINE is set"):
        upload_folder(model, NAME)


def test_a_leak_is_not_uploaded(model, hub):
    write_json(model / "generation_config.json", {"note": "/home/ann/models"})
    with pytest.raises(BadInput, match="holds the path /home/ann/models"):
        upload_folder(model, NAME)
    assert hub.requests == []


def test_the_command_line_says_it_in_one_line(run, fits, hub, everything_said):
    hub.failures.append(Failure(STEPS["put"], None, times=1000))
    with pytest.raises(SystemExit) as ended:
        cli.main(["publish", str(run), "--model", str(fits), "--repo", NAME])
    assert ended.value.code == 2
    said = everything_said()
    assert f"error: {NAME}: the connection broke off" in said
    assert TOKEN not in said and "Traceback" not in said.split("error: ")[1]
