"""A suite file that several tests read."""

GRID = """
dataset: digits
n: [100, 200]
defenses: [none, {name: hrs, channels: [5, 5]}, {checkpoint: a.safetensors}, [rse, jpeg]]
attacks: [pgd, {name: pgd, eot: [1, exact]}]
eps: [2/255, 0.1]
targeted: no
exclude: {defense: hrs, eps: 2/255}
"""
