"""What others do under the same promise: DP-MERF, DP-MEPF, a DP classifier.

Class means and DP-MERF also warm up our own training (`warm_up`).
"""
