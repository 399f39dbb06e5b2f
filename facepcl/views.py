"""Views for contrast: batches of uint8 images, random per sample (docs/METHOD.md, section 5)."""

from facepcl.pretrain.augment import Chain as Chain
from facepcl.pretrain.augment import apply_chain as apply_chain
from facepcl.pretrain.augment import augment as augment
from facepcl.pretrain.augment import blur as blur
from facepcl.pretrain.augment import brightness as brightness
from facepcl.pretrain.augment import contrast as contrast
from facepcl.pretrain.augment import draw_chain as draw_chain
from facepcl.pretrain.augment import face_views as face_views
from facepcl.pretrain.augment import grey as grey
from facepcl.pretrain.augment import hue as hue
from facepcl.pretrain.augment import jitter as jitter
from facepcl.pretrain.augment import luma as luma
from facepcl.pretrain.augment import pose_views as pose_views
from facepcl.pretrain.augment import resize as resize
from facepcl.pretrain.augment import saturation as saturation
from facepcl.pretrain.augment import sobel as sobel
from facepcl.pretrain.augment import to_float as to_float
