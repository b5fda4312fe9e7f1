"Dropout; what a U-Net cannot be built for, and what it cannot be asked, in one sentence each"

import pytest
import torch

from nsgf_nb.learning.unet import UNet


@pytest.mark.parametrize(
    "shape, options, message",
    [
        ((2,), {}, "shape: expected (channels, height, width) of an image, got (2,)"),
        (
            (1, 8, 8),
            dict(multipliers=(1,) * 5),
            "multipliers: expected at most 4, a side of 8 cannot be halved more often, got 5",
        ),
        ((1, 8, 8), dict(multipliers=()), "multipliers: expected at least one"),
        (
            (1, 28, 28),
            dict(attention=(16,)),
            "attention: expected sides of feature maps, 28, 14, 7, got 16",
        ),
        (
            (1, 28, 28),
            dict(attention=(7,), heads=5),
            "heads: expected a divisor of 64 channels, got 5",
        ),
        (
            (1, 28, 28),
            dict(groups=5),
            "channels: expected an even number that 5 groups divide, got 32",
        ),
        (
            (1, 28, 28),
            dict(patch_size=3),
            "patch_size: expected a divisor of the sides (28, 28), got 3",
        ),
        ((1, 8, 8), dict(blocks=0), "blocks: expected at least 1, got 0"),
        ((1, 8, 8), dict(num_classes=0), "num_classes: expected at least 1, got 0"),
    ],
)
def test_a_network_that_cannot_be_built(shape, options, message):
    with pytest.raises(ValueError) as e:
        UNet(shape, **options)
    assert message in str(e.value)


def test_an_image_of_another_shape():
    net = UNet((2, 5, 9), channels=8)
    with pytest.raises(ValueError) as e:
        net(torch.zeros(3, 1, 8, 8), torch.zeros(3))
    assert str(e.value) == "x: expected images of shape (2, 5, 9), got (1, 8, 8)"


def test_labels_that_the_network_does_not_know():
    x, t = torch.zeros(3, 1, 8, 8), torch.zeros(3)
    with pytest.raises(ValueError) as e:
        UNet((1, 8, 8), channels=8, num_classes=4)(x, t, torch.tensor([0, 5, 1]))
    assert str(e.value) == "label: expected 0 … 3, or 4 for no label, got 0 … 5"
    with pytest.raises(ValueError) as e:
        UNet((1, 8, 8), channels=8)(x, t, torch.tensor([0, 3, 4]))
    assert str(e.value) == "label: expected none, the network has no num_classes"


def test_dropout_acts_in_training_only():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = UNet((1, 8, 8), channels=8, multipliers=(1,), dropout=0.5)
        for p in net.parameters():
            p.data += 0.1 * torch.randn_like(p)
        x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
        net.eval()
        kept = net(x, t)
        assert torch.equal(net(x, t), kept)
        assert not torch.allclose(net.train()(x, t), kept, atol=1e-3)
