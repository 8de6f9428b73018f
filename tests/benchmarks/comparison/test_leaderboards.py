from __future__ import annotations

from robustbench_cli.benchmarks.comparison.leaderboards import parse

DESCRIPTION = """
## Model Zoo

### CIFAR-10

#### Linf, eps=8/255

| <sub>#</sub> | <sub>Model ID</sub> | <sub>Paper</sub> | <sub>Clean accuracy</sub> | <sub>Robust accuracy</sub> | ... |
|:---:|---|---|:---:|:---:|:---:|:---:|
| <sub>**1**</sub> | <sub><sup>**First_A-1**</sup></sub> | <sub>*[A (b) title](https://x.org/1)*</sub> | <sub>93.68%</sub> | \
<sub>73.71%</sub> | <sub>Net <br/> (3x)</sub> | <sub>GitHub,<br>Oct 2019</sub> |

#### Common Corruptions

| <sub>**1**</sub> | <sub><sup>**Other**</sup></sub> | <sub>*[B](https://x.org/2)*</sub> | <sub>9%</sub> | <sub>7%</sub> | a | b |

#### Something else

| <sub>**1**</sub> | <sub><sup>**Third**</sup></sub> | <sub>*[B](https://x.org/2)*</sub> | <sub>9%</sub> | <sub>7%</sub> | a | b |

### ImageNet

#### L2, eps=0.5

|   <sub>**1**</sub>   |   <sub><sup>**Second**</sup></sub>   |   <sub>*[C](https://x.org/3)*</sub>   | <sub>1%</sub> | \
<sub>0.00%</sub> | <sub>R</sub> | <sub>N/A</sub> |

## Notebooks
"""


def test_tables_are_read_from_the_description() -> None:
    """Markup is dropped; corruptions have no norm; the number of images is that of the data set."""
    first, corruptions, second = parse(DESCRIPTION, source="RobustBench 9", date="2030-01")
    assert (first.name, first.dataset, first.norm, first.eps, first.n, first.subset) == (
        *("cifar10-linf", "cifar10", "linf", "8/255", 10000, False),
    )
    (entry,) = first.entries
    assert entry.model_dump() == {
        "model": "First_A-1",
        "paper": "A (b) title",
        "link": "https://x.org/1",
        "venue": "GitHub, Oct 2019",
        "architecture": "Net (3x)",
        "clean": 93.68,
        "robust": 73.71,
    }
    assert (corruptions.name, corruptions.dataset, corruptions.norm, corruptions.entries[0].robust) == (
        *("cifar10-corruptions", "cifar10-c", None, 7.0),
    )
    assert (second.name, second.n, second.subset, second.entries[0].robust) == ("imagenet-l2", 5000, True, 0.0)
    assert (second.source, second.date) == ("RobustBench 9", "2030-01")
