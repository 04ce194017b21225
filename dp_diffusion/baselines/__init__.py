"""What others do under the same promise: DP-MERF, DP-MEPF, a DP classifier."""
