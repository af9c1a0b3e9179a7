"""The small helper library of the busi-notebooks lessons. Importing it loads no deep-learning framework.

For teaching and research, not for diagnosis.
"""

__version__ = "0.1.0"
