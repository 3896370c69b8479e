"""``segzoo report``: a model's training as one page of HTML."""
