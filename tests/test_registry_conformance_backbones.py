"""Deliberate mistakes in a backbone fail the check that is about them; text and audio pass."""

from __future__ import annotations

import pytest
from conformance_kit import Kit, kit

__all__ = ["kit"]

BAD_BACKBONES = {
    # check: (changes to the spec, changes to the parts, part of the message)
    "builds_without_weights": (
        "",
        """
        class Backbone(Backbone):
            def forward(self, x):
                return super().forward(x) / 0
        """,
        "not finite",
    ),
    "features_have_declared_width": ("features={'pooled': 17}", "", "are 16 wide, the spec says 17"),
    "same_input_same_output_in_eval": (
        "",
        """
        class Backbone(Backbone):
            def forward(self, x):
                return super().forward(x + torch.randn(()))
        """,
        "other features the second time",
    ),
    "every_parameter_receives_a_gradient": (
        "",
        """
        class Backbone(Backbone):
            def __init__(self, features):
                super().__init__(features)
                self.stem.unused = nn.Parameter(torch.zeros(2))
        """,
        "stem.unused",
    ),
    "state_dict_survives_safetensors": (
        "",
        """
        class Backbone(Backbone):
            scale = None
            def forward(self, x):
                type(self).scale = type(self).scale or 1
                type(self).scale += 1
                self.own = getattr(self, "own", None) or type(self).scale
                return super().forward(x) * self.own
        """,
        "other features",
    ),
    "export_round_trips": (
        "",
        """
        class Backbone(Backbone):
            def export(self, classifier, labels, input):
                tensors = dict(self.state_dict())
                tensors["norm.weight"] = tensors["norm.weight"] + 1
                return Exported(config={}, tensors=tensors)
        """,
        "built again from its export",
    ),
    "blocks_cover_every_parameter_once": (
        "",
        """
        class Backbone(Backbone):
            def blocks(self):
                return {"stem": ("stem", "body"), "rest": ("body", "mixer", "norm")}
        """,
        "'body.0.weight' is in 2 blocks",
    ),
    "linear_layers_exist": (
        "",
        """
        class Backbone(Backbone):
            def __init__(self, features):
                super().__init__(features)
                self.mixer.out.forward = None
                out = self.mixer.out
                self.mixer.out = nn.Sequential()
                self.mixer.layer = out
                self.mixer.out.forward = lambda x: nn.functional.linear(x, out.weight, out.bias)
            def linear_layers(self):
                return ("mixer.qkv", "mixer.layer")
        """,
        "mixer.layer",
    ),
    "intermediates_are_maps": (
        "",
        """
        class Backbone(Backbone):
            def intermediates(self, x):
                return super().intermediates(x)[::-1]
            def forward(self, x):
                fine, coarse = self.intermediates(x)[::-1]
                return self.norm(self.mixer(coarse.flatten(2).transpose(1, 2))).mean(1)
        """,
        "not finest first",
    ),
    "inserted_tokens_matter": (
        "",
        """
        class Backbone(Backbone):
            def insert_tokens(self, block, tokens):
                pass
        """,
        "no block takes tokens",
    ),
    "other_image_sizes_work": (
        "capabilities=frozenset({'image_size'})",
        """
        class Backbone(Backbone):
            def forward(self, x):
                assert x.shape[-1] == 16, "one size only"
                return super().forward(x)
        """,
        "one size only",
    ),
    "other_channels_work": ("capabilities=frozenset({'in_chans'})", "", "expected input"),
    "texts_have_the_pooled_width": (
        "",
        """
        class Backbone(Backbone):
            def encode_text(self, texts):
                return torch.zeros(len(texts), 3)
        """,
        "encode_text gives (3, 3), not (3, 16)",
    ),
    "classifier_is_carried": ("capabilities=frozenset({'classifier'})", "", "names no tensors"),
    "packaged_weights_load": (
        "weights=Weights(package='zoo_registry', resource='py.typed', sha256='0' * 64)",
        "",
        "sha256 of py.typed differs",
    ),
}


@pytest.mark.parametrize("check", BAD_BACKBONES)
def test_a_bad_backbone_fails_its_check(kit: Kit, check: str):
    changes, parts, message = BAD_BACKBONES[check]
    base = f"@hookimpl\ndef zoo_backbones():\n    return [backbone({changes})]\n"
    failures = kit.failures("backbone", check, base=base, parts=parts)
    assert message in failures[check]


GOOD_BACKBONES = {
    "text, with a tokenizer among its assets": (
        """
        from zoo_registry import TextInput
        @hookimpl
        def zoo_backbones():
            return [backbone(input=TextInput(max_tokens=12), features={"pooled": 8, "tokens": 8},
                capabilities=frozenset({"blocks", "linear_layers"}))]
        """,
        """
        class Letters:
            def __init__(self, longest):
                self.longest = longest
            def __call__(self, sample, generator):
                ids = torch.tensor([ord(letter) % 31 + 1 for letter in sample[: self.longest]])
                return {"ids": ids, "mask": torch.ones_like(ids)}

        class Backbone(nn.Module):
            load_report = None
            def __init__(self, features):
                super().__init__()
                self.features, self.table, self.mix = features, nn.Embedding(32, 8), nn.Linear(8, 8)
            def forward(self, x):
                tokens = self.mix(self.table(x["ids"])) * x["mask"][:, :, None]
                return tokens if self.features == "tokens" else tokens.sum(1) / x["mask"].sum(1, keepdim=True)
            def blocks(self):
                return {"table": ("table",), "mix": ("mix",)}
            def linear_layers(self):
                return ("mix",)
            def transform(self, input, train):
                return Letters(input.max_tokens)
            def collate(self, samples):
                pad = lambda name: nn.utils.rnn.pad_sequence([s[name] for s in samples], batch_first=True)
                return {"ids": pad("ids"), "mask": pad("mask")}
            def assets(self):
                return {"tokenizer.json": b"{}"}
            def export(self, classifier, labels, input):
                return Exported(config={"model_type": "letters"}, tensors=self.state_dict())
        """,
    ),
    "audio, from a file": (
        """
        from zoo_registry import AudioInput
        @hookimpl
        def zoo_backbones():
            return [backbone(input=AudioInput(sample_rate=800, seconds=0.5), features={"pooled": 6},
                capabilities=frozenset())]
        """,
        """
        import wave

        def read(path, generator):
            with wave.open(str(path)) as file:
                return torch.frombuffer(bytearray(file.readframes(400)), dtype=torch.int16).float() / 2**15

        class Backbone(nn.Module):
            load_report = None
            def __init__(self, features):
                super().__init__()
                self.filters = nn.Conv1d(1, 6, 16, stride=8)
            def forward(self, x):
                return self.filters(x[:, None]).relu().mean(2)
            def transform(self, input, train):
                return read
            def export(self, classifier, labels, input):
                return Exported(config={}, tensors=self.state_dict())
        """,
    ),
}


@pytest.mark.parametrize("case", GOOD_BACKBONES)
def test_backbones_that_see_no_images_pass(kit: Kit, case: str):
    base, parts = GOOD_BACKBONES[case]
    assert kit.failures("backbone", base=base, parts=parts) == {}
