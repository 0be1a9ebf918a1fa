"""The sigma axis: schedules, and the noise levels on which a network is trained."""
