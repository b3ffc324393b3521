from .recording import forget as forget
from .state import SCALES as SCALES
from .state import SHOWS as SHOWS
from .state import State as State
from .state import View as View
from .state import explore as explore
from .state import paint as paint
from .state import queries as queries
