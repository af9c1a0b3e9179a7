"""Errors meant for the person who meets them: what is wrong, with which file, what to do."""


class BusiError(Exception):
    """Base of all errors that busilib raises on purpose; the command line prints them and exits with 1."""


class DataError(BusiError):
    """A data set, a file in it, or a download that cannot be used."""


class SplitError(BusiError):
    """A split that puts one file in two sets, or overlaps in a way that its protocol did not declare."""


class RunError(BusiError):
    """A run folder that is incomplete or does not fit what is asked of it."""


class WeightsError(BusiError):
    """Weights that cannot be had, or do not fit the backbone."""


class DiskFullError(BusiError, OSError):
    """There is no room to write a file; what was half written is gone."""


class LessonError(BusiError):
    """A lesson that does not exist, or a parameter that it does not have."""


class ClassroomError(BusiError):
    """An exercise that cannot be made, or submissions that cannot be graded."""
