"""What a fine-tuning would do, found on a throw-away model: who learns, at which rate, how long it takes.

:func:`zoo.preview.preview.preview` looks at a :class:`~zoo.planning.Plan` and returns a
:class:`~zoo.preview.report.Preview`. Nothing is downloaded or written.
"""
