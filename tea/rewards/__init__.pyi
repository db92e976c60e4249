from .base import RewardFunction as RewardFunction
from .base import completion_texts as completion_texts
from .base import score_completions as score_completions
from .load import load_reward as load_reward
from .model import RewardModel as RewardModel
from .remote import RemoteReward as RemoteReward
from .verifiers import VERIFIERS as VERIFIERS
