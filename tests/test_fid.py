"FID against files: the real MNIST sets where they are, and Inception with other weights"

import hashlib
import os

import pytest
import torch

from nsgf_nb.core import make_generator
from nsgf_nb.data import get_sampler
from nsgf_nb.evaluation.classifier import CLASSIFIERS, classify, load_classifier

pytest.importorskip("torch_fidelity")


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_accuracy_is_what_the_file_says(name):
    facts = load_classifier(name, "cpu")[1]
    try:
        s = get_sampler(
            facts["data"], root=os.environ.get("NSGF_DATA", "data"), train=False, download=False
        )
    except FileNotFoundError as e:
        pytest.skip(str(e))
    x, label = s(s.num_points, make_generator(0, name))
    accuracy = (classify(x, name, "cpu")[0] == label).double().mean().item()
    # another machine may round an image across the border
    assert abs(accuracy - facts["test_accuracy"]) <= 2e-4
    assert accuracy >= {"mnist": 0.992, "fashionmnist": 0.91}[facts["data"]]


def test_inception_is_used_where_its_weights_are(tmp_path, monkeypatch):
    "Random weights under the name of the real ones: the scores are called FID, nothing is fetched"
    from torch_fidelity import feature_extractor_inceptionv3 as inception

    import nsgf_nb.fid as fid

    Net = inception.FeatureExtractorInceptionV3
    with monkeypatch.context() as m, torch.random.fork_rng():
        torch.manual_seed(0)
        m.setattr(inception, "load_state_dict_from_url", lambda *args, **kw: {})
        m.setattr(Net, "load_state_dict", lambda self, state: None)
        state = Net("inception-v3-compat", ["2048"]).state_dict()
    (tmp_path / "checkpoints").mkdir()
    torch.save(state, file := tmp_path / "checkpoints" / "weights.pth")
    name = f"weights-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(file.with_name(name))
    monkeypatch.setattr(fid, "INCEPTION", name)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        inception, "load_state_dict_from_url", lambda *args, **kw: pytest.fail("a download")
    )
    x, y = torch.rand(2, 10, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    s = fid.image_scores(x, y, "inception", device="cpu")
    assert {"FID", "KID", "KID_sd", "IS", "IS_sd", "precision", "recall", "n", "m"} == set(s) and s[
        "FID"
    ] > 0
