"""Writes the numbers that test_similarity.py holds the image towers against: PyTorch's and transformers', float32, CPU.

    pip install torch transformers && python tests/colbench/golden/make.py [model.pth of the package imgsim]

Random tiny networks with their weights, and, where the checkpoint is named, the embedding of one picture by it.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.numpy import load_file
from torch.nn import functional as F

HERE = pathlib.Path(__file__).parent
STAGES, WIDTH, FEATURES = (2, 1), 4, 5
CLIP = {
    'vision_config': {
        'hidden_size': 16,
        'intermediate_size': 24,
        'num_hidden_layers': 2,
        'num_attention_heads': 4,
        'image_size': 32,
        'patch_size': 8,
    },
    'text_config': {
        'hidden_size': 8,
        'intermediate_size': 8,
        'num_hidden_layers': 1,
        'num_attention_heads': 2,
        'vocab_size': 9,
        'bos_token_id': 0,
        'eos_token_id': 1,
    },
    'projection_dim': 6,
}


def picture(width, height):
    """A picture that is the same everywhere."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], -1).astype(np.uint8)


def resnet(w, stages, x):
    """torchvision's ResNet with bottlenecks, spelled out. x: [B, 3, H, W]"""

    def norm(x, name):
        parts = (w[f'{name}.{part}'] for part in ('running_mean', 'running_var', 'weight', 'bias'))
        return F.batch_norm(x, *parts, False, 0.0, 1e-5)

    x = F.max_pool2d(F.relu(norm(F.conv2d(x, w['conv1.weight'], None, 2, 3), 'bn1')), 3, 2, 1)
    for stage, blocks in enumerate(stages):
        for block in range(blocks):
            name, stride = f'layer{stage + 1}.{block}', 2 if stage and not block else 1
            y = F.relu(norm(F.conv2d(x, w[f'{name}.conv1.weight']), f'{name}.bn1'))
            y = F.relu(norm(F.conv2d(y, w[f'{name}.conv2.weight'], None, stride, 1), f'{name}.bn2'))
            y = norm(F.conv2d(y, w[f'{name}.conv3.weight']), f'{name}.bn3')
            if f'{name}.downsample.0.weight' in w:
                x = norm(F.conv2d(x, w[f'{name}.downsample.0.weight'], None, stride), f'{name}.downsample.1')
            x = F.relu(x + y)
    return torch.tanh(F.linear(x.mean((2, 3)), w['fc.weight'], w['fc.bias']))


def random_resnet(generator):
    weights = {}

    def conv(name, into, out, size):
        weights[f'{name}.weight'] = torch.randn(out, into, size, size, generator=generator) / (into * size) ** 0.5

    def norm(name, size):
        for part, low in (('weight', 0.5), ('bias', -0.5), ('running_mean', -0.5), ('running_var', 0.5)):
            weights[f'{name}.{part}'] = low + torch.rand(size, generator=generator)

    conv('conv1', 3, WIDTH, 7)
    norm('bn1', WIDTH)
    before = WIDTH
    for stage, blocks in enumerate(STAGES):
        for block in range(blocks):
            name, width = f'layer{stage + 1}.{block}', WIDTH * 2**stage
            for number, (into, out, size) in enumerate(((before, width, 1), (width, width, 3), (width, 4 * width, 1))):
                conv(f'{name}.conv{number + 1}', into, out, size)
                norm(f'{name}.bn{number + 1}', out)
            if not block:
                conv(f'{name}.downsample.0', before, 4 * width, 1)
                norm(f'{name}.downsample.1', 4 * width)
            before = 4 * width
    weights['fc.weight'] = torch.randn(FEATURES, before, generator=generator) / before**0.5
    weights['fc.bias'] = torch.randn(FEATURES, generator=generator)
    return weights


def main():
    generator = torch.Generator().manual_seed(0)
    saved = {'versions': json.dumps({'torch': torch.__version__, 'transformers': transformers.__version__})}
    weights = random_resnet(generator)
    images = torch.randn(2, 3, 48, 40, generator=generator)
    saved |= {f'resnet:{name}': value.numpy() for name, value in weights.items()}
    saved |= {
        'resnet_images': images.permute(0, 2, 3, 1).numpy(),
        'resnet_out': resnet(weights, STAGES, images).numpy(),
    }

    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(**CLIP)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved['clip_config'] = (pathlib.Path(folder) / 'config.json').read_text()
        arrays = load_file(pathlib.Path(folder) / 'model.safetensors')
    saved |= {f'clip:{name}': value for name, value in arrays.items()}
    process = transformers.CLIPImageProcessorPil(size={'shortest_edge': 32}, crop_size={'height': 32, 'width': 32})
    for name, size in (('tall', (50, 91)), ('wide', (77, 40))):
        pixels = process(images=Image.fromarray(picture(*size)), return_tensors='pt')['pixel_values']
        with torch.no_grad():
            found = model.get_image_features(pixel_values=pixels)
        saved[f'clip_{name}_pixels'] = pixels[0].permute(1, 2, 0).numpy()
        saved[f'clip_{name}_out'] = getattr(found, 'pooler_output', found)[0].numpy()

    if len(sys.argv) > 1:
        loaded = torch.load(sys.argv[1], weights_only=True, map_location='cpu')
        real = {name.removeprefix('module.pre.'): value for name, value in loaded.items()}
        pixels = np.asarray(Image.fromarray(picture(320, 200)).resize((224, 224), Image.Resampling.BILINEAR)) / 255
        pixels = (pixels - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
        with torch.no_grad():
            out = resnet(real, (3, 4, 6, 3), torch.from_numpy(pixels).float().permute(2, 0, 1)[None])
        saved['imgsim_out'] = out[0].numpy()
    np.savez_compressed(HERE / 'pictures.npz', **saved)


if __name__ == '__main__':
    main()
