from . import data as data
from . import explore as explore
from . import figures as figures
from . import ledger as ledger
from . import outputs as outputs
from . import probes as probes
from . import train as train
from .added import add_registers as add_registers
from .config import ViTConfig as ViTConfig
from .config import named as named
from .explore import Explorer as Explorer
from .folding import fold_layer_scale as fold_layer_scale
from .models import Features as Features
from .models import ViT as ViT
from .pretrained import load_pretrained as load_pretrained
from .registers import RegisterNeuron as RegisterNeuron
from .registers import find_register_neurons as find_register_neurons
from .registers import move_to_registers as move_to_registers
from .registers import test_time_registers as test_time_registers
from .tape import Tape as Tape
from .tape import record as record
from .timm_models import from_timm as from_timm
from .tokens import Group as Group
from .tokens import TokenNotThere as TokenNotThere
from .tokens import TokenPlan as TokenPlan

__version__: str
