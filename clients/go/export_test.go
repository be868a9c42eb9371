package toril

import (
	"net/http"
	"time"
)

// Hasty makes the client notice silence early, on events and on workers' sockets.
func (c *Client) Hasty(silence time.Duration) {
	c.longestSilence, c.pingEvery = silence, silence/2
}

// Verify is how a handler checks a request, at a time of the test's.
func Verify(header http.Header, body string, secrets []string, now time.Time) error {
	keys, err := readSecrets(secrets)
	if err != nil {
		return err
	}
	if fault := verify(header, []byte(body), keys, now); fault != nil {
		return fault
	}
	return nil
}
