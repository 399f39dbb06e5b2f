"""torch.hub entry points: torch.hub.load("OWNER/facepcl", "pcl_facecycle", pretrained=True, trust_repo=True).

One entry for each model; the package is imported only inside them, so that torch.hub can name what is
missing.
"""

dependencies = ["torch", "timm", "safetensors", "huggingface_hub"]


def _create(_name, _pretrained, _branches, **timm_options):
    from facepcl import create_model as _create_model

    return _create_model(_name, pretrained=_pretrained, branches=_branches, **timm_options)


def pcl_facecycle(pretrained=False, branches=True, **timm_options):
    """PCL's 16-layer encoder, for RGB face crops of 64 px in [0, 1], without mean/std normalisation.

    pretrained: True for the bundled weights (offline), or the path of a .safetensors file.
    branches: with the face and pose branch (forward_codes, forward_branches); False is the trunk alone.
    Other options are timm's: num_classes, features_only, in_chans, drop_rate, ...

    model = torch.hub.load("OWNER/facepcl", "pcl_facecycle", pretrained=True, trust_repo=True)
    shared, face, pose = model.eval().forward_codes(torch.rand(1, 3, 64, 64))  # [1, 2048] each
    """
    return _create("pcl_facecycle", pretrained, branches, **timm_options)


def pcl_resnet18(pretrained=False, branches=True, **timm_options):
    """timm's ResNet-18 with PCL's face and pose branch, for RGB face crops in [0, 1], 96 px for the bundled
    weights (model.pretrained_cfg["input_size"] tells), without mean/std normalisation.

    pretrained: True for the bundled weights (offline), or the path of a .safetensors file.
    branches: with the face and pose branch (forward_codes, forward_branches); False is timm's ResNet itself.
    Other options are timm's: num_classes, features_only, in_chans, drop_rate, ...

    model = torch.hub.load("OWNER/facepcl", "pcl_resnet18", pretrained=True, num_classes=7, trust_repo=True)
    logits = model(torch.rand(2, 3, 96, 96))  # [2, 7], for fine-tuning
    """
    return _create("pcl_resnet18", pretrained, branches, **timm_options)


def pcl_resnet50(pretrained=False, branches=True, **timm_options):
    """timm's ResNet-50 with PCL's face and pose branch, for RGB face crops in [0, 1], 96 px for the bundled
    weights (model.pretrained_cfg["input_size"] tells), without mean/std normalisation.

    pretrained: True for the bundled weights (offline), or the path of a .safetensors file.
    branches: with the face and pose branch (forward_codes, forward_branches); False is timm's ResNet itself.
    Other options are timm's: num_classes, features_only, in_chans, drop_rate, ...

    model = torch.hub.load("OWNER/facepcl", "pcl_resnet50", features_only=True, pretrained=True, trust_repo=True)
    stages = model(torch.rand(2, 3, 96, 96))  # 5 maps, the last [2, 2048, 3, 3]
    """  # noqa: E501
    return _create("pcl_resnet50", pretrained, branches, **timm_options)
