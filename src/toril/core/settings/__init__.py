"""How a setting is described and its value read. Rooms list their settings; `toril.config` reads them."""
