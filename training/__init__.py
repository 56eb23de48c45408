"""Fine-tuning: teach a CLIP's text tower to prefer descriptions, from pairs to an adapter.

Follow one pair. :mod:`.finetune` runs it all and writes the adapter. :mod:`.data` makes the pair an example:
an image feature and two rows of tokens. It also says which texts meet at a step, and alters them;
:mod:`.neither` writes those that are neither descriptions nor captions.
:mod:`.trainer` takes the steps: :mod:`.objective` runs a batch through the text tower and adds up its
:mod:`.losses`; :mod:`.lora` says which weights change; :mod:`.checkpoint` saves the run. At the end,
:mod:`.readout` fits the probability of being a description. :mod:`.config` holds all settings.
"""
