"""One commit to the Hub, repeated until it is through.

1. Weights go up first, outside of any commit, and nobody sees them; then one commit makes all files visible together,
   and takes away what an earlier upload left and this one does not have.
2. `huggingface_hub` itself repeats, with growing pauses, whatever belongs to large files. What it asks once only
   (creating the repository, validating the card, the commit) is repeated here. After a commit whose answer was lost,
   the next try finds nothing that changed, and makes no second one.
3. The same command again sends only what has not arrived.
4. The access token is read by `huggingface_hub` and goes to the Hub, nowhere else: no message holds it, also where a
   server says it back.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from efficient_reasoning.checkpoint import check_checkpoint
from efficient_reasoning.errors import BadInput
from efficient_reasoning.hub.checks import check_texts
from efficient_reasoning.hub.folder import hub_files, is_replaced

if TYPE_CHECKING:
    from huggingface_hub import HfApi

RETRY_PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0, 8.0)
_LONGEST_PAUSE_SECONDS = 300.0
_BUSY = (408, 429, 500, 502, 503, 504)
_HUB_ITSELF = re.compile(r"/api/|\.git/info/lfs/")  # and not the storage that it sends large files to
# What `huggingface_hub` asks once only.
_ASKED_ONCE = re.compile(
    r"/api/(repos/create|validate-yaml|(models|datasets)/[^/]+/[^/]+(/(commit|revision)/[^/]+)?)(\?|$)"
)
_REFUSALS = {
    401: "the Hub does not accept the access token (401); run `hf auth login` with a token that may write",
    402: "the Hub asks for a plan that has room for it (402); see its billing settings",
    403: "the access token may not write there (403); use one with write permission, or another --repo",
    404: "the Hub knows no such repository or namespace (404); check the spelling of --repo",
    409: "another change to the repository came in between (409); run the same command again",
    412: "another change to the repository came in between (412); run the same command again",
    413: "the Hub takes no files of that size there (413); save the model in smaller shards",
    429: "the Hub takes no more requests for now (429); wait some minutes and run the same command again",
}
_AGAIN = "run the same command again later: what has arrived is not sent again, and half a model is never visible"
Result = TypeVar("Result")


def upload_folder(folder: str | Path, repo: str, *, public: bool = False) -> str:
    """Upload a checkpoint folder (card and evaluation included, nothing else in it) in one commit.

    Args:
        folder: from `publish`, or a training run's output.
        repo: "ORG/NAME", or "NAME" in one's own namespace; created when it does not exist.
        public: for a repository that is created; an existing one keeps its visibility, which is printed.

    Returns:
        The repository's address.

    Raises:
        BadInput: the folder is not fit to leave, or the Hub refuses or stays unreachable.
    """
    check_repo(repo)
    folder = Path(folder)
    check_checkpoint(str(folder))
    files = hub_files(folder)
    check_texts(files, folder)
    return _upload(files, repo, "model", public, is_replaced)


def upload_data_set(folder: str | Path, repo: str, *, public: bool = False) -> str:
    """Upload a data set that `data_sets` has built; as `upload_folder`."""
    check_repo(repo)
    files = {path.name: path for path in sorted(Path(folder).iterdir())}
    check_texts(files, folder)
    return _upload(files, repo, "dataset", public, lambda name: False)


def check_repo(repo: str, option: str = "--repo") -> None:
    """Refuse a name that the Hub would not take."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise BadInput(
            f"{option} {repo!r} is no name for the Hub; write ORG/NAME with letters, digits, '-', '_' and '.'."
        ) from None


def require_token() -> None:
    """Refuse at once what the Hub would refuse after the work is done."""
    from huggingface_hub import get_token

    if not get_token():
        raise BadInput("There is no access token for the Hub; run `hf auth login`, then the same command again.")


def _upload(
    files: Mapping[str, Path], repo: str, repo_type: str, public: bool, is_stale: Callable[[str], bool]
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    require_token()
    api = HfApi()

    def commit() -> None:
        info = api.repo_info(name, repo_type=repo_type)
        there = [sibling.rfilename for sibling in info.siblings or []]
        stale = [path for path in there if path not in files and is_stale(path)]
        api.create_commit(
            name,
            # Fresh at every try: the Hub says which of them it has by now.
            [*(CommitOperationAdd(*item) for item in files.items()), *map(CommitOperationDelete, stale)],
            commit_message="Upload with efficient-reasoning",
            repo_type=repo_type,
            parent_commit=info.sha,
        )

    try:
        address = _patiently(
            lambda: api.create_repo(repo, private=not public, repo_type=repo_type, exist_ok=True), repo
        )
        name = address.repo_id
        _tell_visibility(api, name, repo_type, public)
        _patiently(commit, repo)
    except OfflineModeIsEnabled:
        raise BadInput(f"{repo}: HF_HUB_OFFLINE is set; unset it to upload, or add --dry-run.") from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise BadInput(f"{repo}: {_sentence(error)}.") from None
    return str(address)


def _tell_visibility(api: HfApi, name: str, repo_type: str, public: bool) -> None:
    """A repository that was there before keeps its visibility; say so where it is not the one that was asked for."""
    is_private = _patiently(lambda: api.repo_info(name, repo_type=repo_type), name).private
    if is_private is not None and is_private == public:
        kept, setting = ("private", "public") if is_private else ("public", "private")
        print(f"{name} was there before and stays {kept}; its settings on the Hub make it {setting}.")


def _patiently(call: Callable[[], Result], repo: str) -> Result:
    """Repeat a call that fails where another try may help and `huggingface_hub` has made none."""
    from huggingface_hub.errors import HTTPError

    for pause_seconds in (*RETRY_PAUSES_SECONDS, None):
        try:
            return call()
        except (HTTPError, json.JSONDecodeError) as error:  # an overloaded gateway answers in HTML
            if pause_seconds is None or not _may_pass(error):
                raise
            wait_seconds = max(pause_seconds, _asked_pause_seconds(error))
            print(f"{repo}: {_reason(error)}; next try in {wait_seconds:g} s", file=sys.stderr, flush=True)
            time.sleep(wait_seconds)
    raise AssertionError("the last try returns or raises")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, json.JSONDecodeError):
        return True
    response = getattr(error, "response", None)
    url = str((response or error).request.url)
    return bool(_ASKED_ONCE.search(url)) and (response is None or response.status_code in _BUSY)


def _asked_pause_seconds(error: Exception) -> float:
    """How long the Hub asks to be left alone; 0 where it does not say."""
    from huggingface_hub.utils import parse_ratelimit_headers

    headers = getattr(getattr(error, "response", None), "headers", {})
    limit, after = parse_ratelimit_headers(headers), headers.get("Retry-After", "")
    asked_seconds = limit.reset_in_seconds + 1 if limit and limit.remaining == 0 else after
    return min(float(asked_seconds), _LONGEST_PAUSE_SECONDS) if str(asked_seconds).isdigit() else 0.0


def _reason(error: BaseException) -> str:
    """What happened, in a few words without addresses, which may be signed."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the Hub answers {response.status_code}"
    return f"the connection broke off ({type(error).__name__})"


def _sentence(error: BaseException) -> str:
    """What to do about a failure that more tries did not cure."""
    from huggingface_hub.errors import HTTPError

    cause = error
    while cause is not None and not isinstance(cause, HTTPError):  # uploads wrap what went wrong
        cause = cause.__cause__
    if cause is None:
        return f"{_without_token(str(error).strip() or type(error).__name__)}; {_AGAIN}"
    response = getattr(cause, "response", None)
    status = response.status_code if response is not None else None
    # Storage refuses addresses that have grown old; new ones are given out with the next try.
    if status is None or not _HUB_ITSELF.search(str(response.request.url)):
        return f"{_reason(cause)}; {_AGAIN}"
    if status in _REFUSALS:
        return _REFUSALS[status]
    if status in _BUSY:
        return f"{_reason(cause)}; {_AGAIN}"
    said = error if isinstance(error, ValueError) else cause
    return f"the Hub refuses ({status}: {_without_token(str(said))})"


def _without_token(text: str) -> str:
    from huggingface_hub import get_token

    return " ".join(text.replace(get_token() or "\0", "***").split())
