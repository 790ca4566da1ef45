"""Paired, clustered, stratified inference on a documents x variants matrix of scores; pure numpy and scipy."""
