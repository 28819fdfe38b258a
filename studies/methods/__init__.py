"""Controls and the package's methods on one simulation, by share of perfect targeting.

study       the comparison: `study.study`
tuning      hyper-parameters, equally many candidates for each method: `tuning.study`
summary     tables of several simulations side by side
"""
