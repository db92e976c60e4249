from .page import Comparison as Comparison
from .page import RunRewards as RunRewards
from .page import compare as compare
from .page import markdown_report as markdown_report
from .page import write_report as write_report
