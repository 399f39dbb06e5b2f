"""torch.hub entry points: torch.hub.load("OWNER/facepcl", "pcl_facecycle", pretrained=True, trust_repo=True).

One entry for each model; the package is imported only inside them, so that torch.hub can name what is
missing.
"""

dependencies = ["torch", "timm", "safetensors", "huggingface_hub"]


def _create(_name, _pretrained, _branches, **timm_options):
    from facepcl import create_model as _create_model

    return _create_model(_name, pretrained=_pretrained, branches=_branches, **timm_options)


def pcl_facecycle(pretrained=False, branches=True, **timm_options):
    """PCL's 16-layer encoder, for RGB face crops of 64 px in [0, 1]; no mean or deviation is subtracted.

    pretrained: True for the bundled weights, or the path of a .safetensors file.
    branches: with the face and pose branch (forward_codes, forward_branches); False is the trunk alone.
    Other options are timm's: num_classes, features_only, in_chans, drop_rate, ...

    model = torch.hub.load("OWNER/facepcl", "pcl_facecycle", pretrained=True, trust_repo=True)
    shared, face, pose = model.forward_codes(torch.rand(1, 3, 64, 64))
    """
    return _create("pcl_facecycle", pretrained, branches, **timm_options)


def pcl_resnet18(pretrained=False, branches=True, **timm_options):
    """timm's ResNet-18 with PCL's face and pose branch, for RGB face crops in [0, 1] of the size that
    model.pretrained_cfg tells.

    pretrained, branches and other options as for pcl_facecycle.

    model = torch.hub.load("OWNER/facepcl", "pcl_resnet18", pretrained=True, num_classes=7, trust_repo=True)
    """
    return _create("pcl_resnet18", pretrained, branches, **timm_options)


def pcl_resnet50(pretrained=False, branches=True, **timm_options):
    """timm's ResNet-50 with PCL's face and pose branch, for RGB face crops of 128 px in [0, 1].

    pretrained, branches and other options as for pcl_facecycle; no weights are bundled.

    model = torch.hub.load("OWNER/facepcl", "pcl_resnet50", num_classes=7, trust_repo=True)
    """
    return _create("pcl_resnet50", pretrained, branches, **timm_options)
