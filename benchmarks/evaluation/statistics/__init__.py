"""Statistics of outcomes over images and draws: intervals, comparisons, planning and early stopping."""
