"""The networks of the rows; imports without torch."""

from dataclasses import replace

from overhaul.nets import Net

ANY = Net()


def wide_resnet(depth: int, width: int, num_classes: int = 100) -> Net:
    return Net(family="wide_resnet", kwargs={"depth": depth, "width": width, "num_classes": num_classes})


def pyramidnet(depth: int, alpha: int, bottleneck: bool) -> Net:
    kwargs = {"depth": depth, "alpha": alpha, "bottleneck": bottleneck, "num_classes": 100}
    return Net(family="pyramidnet", kwargs=kwargs)


def resnet(depth: int) -> Net:
    kwargs = {"depth": depth, "num_classes": 1000}
    return Net(family="resnet", kwargs=kwargs, weights=f"timm/resnet{depth}.tv_in1k")


WRN_28_4 = wide_resnet(28, 4)
PYRAMID_200 = pyramidnet(200, 240, bottleneck=True)
PYRAMID_110 = pyramidnet(110, 84, bottleneck=False)
RESNET_50 = replace(resnet(50), weights=None)
RESNET_56 = Net(family="cifar_resnet", kwargs={"depth": 56, "num_classes": 100})
MOBILENET = Net(family="mobilenet", kwargs={"num_classes": 1000})
RESNET_50_A1 = Net(family="timm:resnet50", kwargs={"num_classes": 1000}, weights="timm/resnet50.a1_in1k")
MOBILENET_V3 = Net(family="timm:mobilenetv3_large_100", kwargs={"num_classes": 1000})
