from .comparison import Comparison as Comparison
from .comparison import RunRewards as RunRewards
from .comparison import compare as compare
from .figures import trend_figure as trend_figure
from .page import markdown_report as markdown_report
from .page import write_report as write_report
from .tables import format_interval as format_interval
