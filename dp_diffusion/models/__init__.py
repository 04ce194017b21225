"""Networks, and their weights as files.

The denoisers (`unet`) and classifiers (`small_cnn`, `wide_resnet`) are made of
`layers`, which hold the convolution whose per-example gradients are cheap.
"""
