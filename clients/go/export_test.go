package toril

import "time"

// Hasty makes the client notice silence early, on events and on workers' sockets.
func (c *Client) Hasty(silence time.Duration) {
	c.longestSilence, c.pingEvery = silence, silence/2
}
