"""Models of images, as people write them."""

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from tests.zoo_rows import Built, Row


class BasicBlock(nn.Module):
    """A residual block, with batch norm and a shortcut that has a layer of its own."""

    def __init__(self, inside, outside, stride=1):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x):
        identity = self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = BasicBlock(1, 2, 2)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(2, 3)

    def forward(self, x):
        return self.fc(torch.flatten(self.avgpool(self.layer(x)), 1))


class ScaledStdConv2d(nn.Conv2d):
    """A convolution whose weight is standardised by batch norm in training mode."""

    def __init__(self, *args, eps=1e-6, gamma=1.7, **options):
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.full((self.out_channels, 1, 1, 1), 1.0))
        self.scale, self.eps = gamma * self.weight[0].numel() ** -0.5, eps

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=(self.gain * self.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=self.eps,
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class NFResNet(nn.Module):
    """A residual network without normalisation of its activations."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = ScaledStdConv2d(1, 2, 2), ScaledStdConv2d(2, 2, 3, padding=1)
        self.alpha, self.skipinit_gain, self.fc = 0.2, nn.Parameter(torch.zeros(())), nn.Linear(2, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv(F.silu(x) * 1.7).mul(self.skipinit_gain) * self.alpha
        return self.fc(x.mean((2, 3)))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """A stem and one block: depthwise convolution, norm, two linear layers, and a scale for each channel."""

    def __init__(self, dim=3):
        super().__init__()
        self.stem, self.norm0 = nn.Conv2d(1, dim, 2, 2), LayerNorm2d(dim)
        self.dwconv, self.norm = nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(dim, 4), nn.GELU(), nn.Linear(4, dim)
        self.gamma, self.head = nn.Parameter(1e-6 * torch.ones(dim)), nn.Linear(dim, 3)

    def forward(self, x):
        x = self.norm0(self.stem(x))
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(self.act(self.pwconv1(y)))
        return self.head((x + y.permute(0, 3, 1, 2)).mean([-2, -1]))


class TimmNorm(nn.LayerNorm):
    """A subclass with a forward of its own, as in timm."""

    def __init__(self, channels, eps=1e-6, affine=True):
        super().__init__(channels, eps=eps, elementwise_affine=affine)
        self._fast_norm = False

    def forward(self, x):
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    fused_attn: torch.jit.Final[bool]

    def __init__(self, dim, heads=2):
        super().__init__()
        self.num_heads, self.head_dim, self.fused_attn = heads, dim // heads, True
        self.qkv, self.attn_drop, self.proj = nn.Linear(dim, 3 * dim), nn.Dropout(0.1), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class VisionTransformer(nn.Module):
    def __init__(self, dim=2):
        super().__init__()
        self.patch_embed = nn.Conv2d(1, dim, 2, 2)
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, dim)), nn.Parameter(0.02 * torch.randn(1, 5, dim))
        self.norm1, self.attn, self.norm2 = TimmNorm(dim), Attention(dim), TimmNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 3), nn.GELU(), nn.Linear(3, dim))
        self.norm, self.head = TimmNorm(dim), nn.Linear(dim, 3)

    def forward(self, x):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm(x)[:, 0])


class WindowAttention(nn.Module):
    """Attention within windows, with a table of biases that a buffer indexes."""

    def __init__(self, dim, window, heads):
        super().__init__()
        self.window, self.heads, self.scale = window, heads, (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(0.02 * torch.randn((2 * window - 1) ** 2, heads))
        steps = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        relative = (steps[:, :, None] - steps[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("relative_position_index", relative[..., 0] * (2 * window - 1) + relative[..., 1])
        self.qkv, self.proj, self.softmax = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Softmax(dim=-1)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attn = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(n, n, -1)
        attn = self.softmax(attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0))
        return self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


class Swin(nn.Module):
    def __init__(self, dim=2, window=2):
        super().__init__()
        self.window, self.embed, self.norm = window, nn.Conv2d(1, dim, 1), nn.LayerNorm(dim)
        self.attn, self.head = WindowAttention(dim, window, 2), nn.Linear(dim, 3)

    def forward(self, x):
        x = self.embed(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        shifted = torch.roll(self.norm(x), shifts=(-1, -1), dims=(1, 2))
        m = self.window
        windows = shifted.view(b, h // m, m, w // m, m, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, m * m, c)
        back = self.attn(windows).view(b, h // m, w // m, m, m, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(back, shifts=(1, 1), dims=(1, 2))
        return self.head(x.mean((1, 2)))


class Mixer(nn.Module):
    """Linear layers over the patches, then over the channels."""

    def __init__(self, patches=4, dim=3):
        super().__init__()
        self.embed = nn.Conv2d(1, dim, 2, 2)
        self.norm1, self.norm2, self.head = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.Linear(dim, 3)
        self.tokens = nn.Sequential(nn.Linear(patches, 2), nn.GELU(), nn.Linear(2, patches))
        self.channels = nn.Sequential(nn.Linear(dim, 3), nn.GELU(), nn.Linear(3, dim))

    def forward(self, x):
        x = self.embed(x).flatten(2).mT
        x = x + self.tokens(self.norm1(x).mT).mT
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class SqueezeExcite(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.conv, self.fc1, self.fc2, self.head = nn.Conv2d(1, 3, 2), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1), nn.Linear(3, 3)
        self.gate = gate

    def forward(self, x):
        x = torch.tanh(self.conv(x))
        scale = self.fc2(F.silu(self.fc1(x.mean((2, 3), keepdim=True))))
        return self.head((x * self.gate(scale)).mean((2, 3)))


class HardSigmoid(nn.Module):
    def forward(self, x):
        return F.relu6(x + 3) / 6


class HardSwish(nn.Module):
    def forward(self, x):
        return x * F.relu6(x + 3) / 6


class MobileNet(nn.Module):
    """An inverted residual with hard activations."""

    def __init__(self, swish, sigmoid):
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(1, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.depthwise, self.bn2 = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False), nn.BatchNorm2d(3)
        self.fc1, self.fc2 = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)
        self.project, self.head = nn.Conv2d(3, 1, 1, bias=False), nn.Linear(16, 3)
        self.swish, self.sigmoid = swish, sigmoid

    def forward(self, x):
        y = self.swish(self.bn1(self.expand(x)))
        y = self.swish(self.bn2(self.depthwise(y)))
        y = y * self.sigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(y, 1)))))
        return self.head((x + self.project(y)).flatten(1))


def mobile_net():
    plain = MobileNet(HardSwish(), HardSigmoid())
    return images(MobileNet(nn.Hardswish(), nn.Hardsigmoid()))._replace(plain=plain.eval())


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.bottom, self.up = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.transposed, self.out = nn.ConvTranspose2d(2, 2, 2, 2), nn.Conv2d(4, 1, 1)

    def forward(self, x):
        skip = F.silu(self.down(x))
        low = F.silu(self.bottom(F.avg_pool2d(skip, 2)))
        wide = F.interpolate(low, size=skip.shape[-2:], mode="bilinear", align_corners=False)
        high = F.silu(self.up(torch.cat([wide, skip], 1)))
        return self.out(torch.cat([high, self.transposed(low)], 1))


def unet():
    x = torch.randn(3, 1, 4, 4)
    return Built(UNet(), (x, torch.randn(3, 1, 4, 4)), nn.MSELoss())


class FunctionalNorms(nn.Module):
    """Group norm and instance norm as calls of functions."""

    def __init__(self):
        super().__init__()
        self.conv, self.mix, self.head = nn.Conv2d(1, 4, 2), nn.Conv2d(4, 2, 2), nn.Linear(2, 3)
        self.weight, self.bias, self.scale = (
            nn.Parameter(torch.ones(4)),
            nn.Parameter(torch.zeros(4)),
            nn.Parameter(torch.ones(2)),
        )

    def forward(self, x):
        x = F.silu(F.group_norm(self.conv(x), 2, self.weight, self.bias))
        x = F.instance_norm(self.mix(x), weight=self.scale)
        return self.head(x.sin().mean((2, 3)))


class Rectified(nn.Module):
    """Learned slopes, one for each channel and one for all."""

    def __init__(self):
        super().__init__()
        self.conv, self.act, self.fc, self.last, self.head = (
            nn.Conv2d(1, 3, 2), nn.PReLU(3), nn.Linear(3, 4), nn.PReLU(), nn.Linear(4, 3),
        )  # fmt: skip

    def forward(self, x):
        return self.head(self.last(self.fc(self.act(self.conv(x)).mean((2, 3)))))


class RMSNorm2d(nn.Module):
    """Batch norm that is frozen: its statistics are buffers, and its formula is written out."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        scale = (self.weight * (self.running_var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return x * scale + (self.bias - self.running_mean * scale.flatten()).reshape(1, -1, 1, 1)


class Detector(nn.Module):
    """A backbone with frozen batch norm, and two heads in a tuple."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 2), RMSNorm2d(2)
        self.classes, self.boxes = nn.Linear(2, 3), nn.Linear(2, 4)

    def forward(self, x):
        x = torch.tanh(self.norm(self.conv(x))).mean((2, 3))
        return self.classes(x), self.boxes(x)


def detector():
    def criterion(output, target):
        return F.cross_entropy(output[0], target[0]) + F.smooth_l1_loss(output[1], target[1])

    batch = torch.randn(3, 1, 4, 4), (torch.randint(3, (3,)), torch.randn(3, 4))
    return Built(
        Detector(),
        batch,
        criterion,
        pick=lambda output: torch.cat(output, -1),
        wrap=lambda tensor: (tensor[..., :3], tensor[..., 3:]),
    )


def images(model):
    return Built(model.eval(), (torch.randn(3, 1, 4, 4), torch.randint(3, (3,))), nn.CrossEntropyLoss())


def of_images(kind):
    return Row(lambda: images(kind()))


VISION = {
    "resnet": of_images(ResNet),
    "nf resnet": of_images(NFResNet),
    "convnext": of_images(ConvNeXt),
    "vision transformer": of_images(VisionTransformer),
    "swin": of_images(Swin),
    "mixer": of_images(Mixer),
    "squeeze excite": of_images(lambda: SqueezeExcite(torch.sigmoid)),
    "mobilenet": Row(mobile_net),
    "unet": Row(unet),
    "functional norms": of_images(FunctionalNorms),
    "prelu": of_images(Rectified),
    "detector": Row(detector, refused={"monte_carlo_fisher": "model must return one tensor"}),
}
