"""ResNet-50 (He et al., CVPR 2016) whose weights have torchvision's names and shapes; strides lie on the 3x3."""

from collections.abc import Iterator
from typing import Final

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from perception.models.blocks import Foldable

BLOCKS: Final = (3, 4, 6, 3)
EXPANSION: Final = 4


class ResNet50(Foldable):
    """Normalised images (B, 3, H, W) to maps of strides 8, 16 and 32, `channels` wide.

    `load_state_dict` takes torchvision's `resnet50` without its last layer (`fc`), which has no place here.
    """

    channels = (512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(64)
        self.layer1 = _layer(64, 64, BLOCKS[0], stride=1)
        self.layer2 = _layer(256, 128, BLOCKS[1], stride=2)
        self.layer3 = _layer(512, 256, BLOCKS[2], stride=2)
        self.layer4 = _layer(1024, 512, BLOCKS[3], stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, 64, H/2, W/2)
        x = functional.max_pool2d(x, 3, stride=2, padding=1)  # (B, 64, H/4, W/4)
        x8 = self.layer2(self.layer1(x))  # (B, 512, H/8, W/8)
        x16 = self.layer3(x8)  # (B, 1024, H/16, W/16)
        return x8, x16, self.layer4(x16)  # the last (B, 2048, H/32, W/32)

    def fold(self) -> None:
        if isinstance(self.bn1, nn.BatchNorm2d):
            self.conv1, self.bn1 = fuse_conv_bn_eval(self.conv1, self.bn1), nn.Identity()


class Bottleneck(Foldable):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the 3x3 strides."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1: nn.Module = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2: nn.Module = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        last = nn.BatchNorm2d(outputs)
        # A block begins as its shortcut (Goyal et al., 2017): untrained, 16 blocks would double the variance 16 times.
        nn.init.zeros_(last.weight)
        self.bn3: nn.Module = last
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)  # (B, width, H, W)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)  # (B, width, H / stride, W / stride)
        y = self.bn3(self.conv3(y))  # (B, outputs, H / stride, W / stride)
        y = y + (x if self.downsample is None else self.downsample(x))
        return functional.relu(y, inplace=True)

    def fold(self) -> None:
        if not isinstance(self.bn1, nn.BatchNorm2d):
            return
        for number in (1, 2, 3):
            convolution, norm = self.get_submodule(f"conv{number}"), self.get_submodule(f"bn{number}")
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            setattr(self, f"conv{number}", fuse_conv_bn_eval(convolution, norm))
            setattr(self, f"bn{number}", nn.Identity())
        if self.downsample is not None:
            convolution, norm = self.downsample
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            self.downsample = nn.Sequential(fuse_conv_bn_eval(convolution, norm), nn.Identity())


def _layer(inputs: int, width: int, blocks: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(*_blocks(inputs, width, blocks, stride))


def _blocks(inputs: int, width: int, blocks: int, stride: int) -> Iterator[Bottleneck]:
    yield Bottleneck(inputs, width, stride)
    for _ in range(blocks - 1):
        yield Bottleneck(width * EXPANSION, width, 1)
