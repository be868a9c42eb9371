package toril

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Envelope is a request that a target is sent; only Target is needed.
type Envelope struct {
	Target string
	// Method is POST where it is empty.
	Method string
	// Path is what follows the target's URL.
	Path    string
	Headers map[string]string
	// Body is sent as JSON; nil means none. Bytes ([]byte) are sent as they are.
	Body any
	// Delay is how long from now it is sent at the earliest.
	Delay time.Duration
	// NotBefore and Deadline are when it is sent at the earliest, and when it is given up; zero means no such time.
	NotBefore, Deadline time.Time
	// Priority is 0, the first, or a number: the lower the earlier.
	Priority int
	// Labels are what the delivery can be found by.
	Labels map[string]string
	// Group shares the target fairly with other groups, and has limits; its priority counts in place of Priority.
	Group *GroupOption
	// Key makes a second one with the same envelope the same delivery; one is made up if it is empty.
	Key string
}

// Delivery is a delivery as the server tells of it.
type Delivery struct {
	ID           string            `json:"job_id"`
	Target       string            `json:"target"`
	Status       string            `json:"status"` // queued, dispatching, retrying; or its end: delivered, dead_lettered, cancelled
	AttemptsMade int               `json:"attempts_made"`
	MaxAttempts  int               `json:"max_attempts"`
	CreatedAt    time.Time         `json:"created_at"`
	UpdatedAt    time.Time         `json:"updated_at"`
	LastError    string            `json:"last_error"`
	Reason       string            `json:"reason"` // of a dead letter: refused, attempts, deadline …
	Labels       map[string]string `json:"labels"`
	Group        *GroupOption      `json:"group"` // the one that its envelope named
	// Transitions and Attempts are its history, in [Client.Delivery] and [Client.WaitDelivery].
	Transitions []json.RawMessage `json:"transitions"`
	Attempts    []json.RawMessage `json:"attempts"`
}

// Ended says that nothing more happens to it, unless it is a dead letter that is replayed.
func (d *Delivery) Ended() bool {
	return d.Status == "delivered" || d.Status == "dead_lettered" || d.Status == "cancelled"
}

// DeliveryFilter is which deliveries: those that meet all that is not zero.
type DeliveryFilter struct {
	// Target and Status (one or several with commas) are for [Client.Deliveries].
	Target, Status string
	Since, Until   time.Time
	// Reason is that of dead letters.
	Reason        string
	ErrorContains string
	Labels        map[string]string
}

func (f DeliveryFilter) query() url.Values {
	query := url.Values{}
	for name, value := range map[string]string{
		"target": f.Target, "status": f.Status, "since": stamp(f.Since), "until": stamp(f.Until), "reason": f.Reason,
		"error_contains": f.ErrorContains,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	for name, value := range f.Labels {
		query.Set("label."+name, value)
	}
	return query
}

// Enqueue hands an envelope over. It is safe to repeat: its key makes a second one the same delivery.
func (c *Client) Enqueue(ctx context.Context, envelope Envelope) (*Delivery, error) {
	said := map[string]any{"target": envelope.Target}
	for name, text := range map[string]string{
		"method": envelope.Method, "path": envelope.Path, "not_before": stamp(envelope.NotBefore), "deadline": stamp(envelope.Deadline),
	} {
		if text != "" {
			said[name] = text
		}
	}
	if envelope.Headers != nil {
		said["headers"] = envelope.Headers
	}
	if envelope.Labels != nil {
		said["labels"] = envelope.Labels
	}
	if envelope.Group != nil {
		said["group"] = envelope.Group
	}
	if envelope.Delay > 0 {
		said["delay_ms"] = atLeastOne(envelope.Delay, time.Millisecond)
	}
	if envelope.Priority != 0 {
		said["priority"] = envelope.Priority
	}
	switch body := envelope.Body.(type) {
	case nil:
	case []byte:
		said["body_base64"] = base64.StdEncoding.EncodeToString(body)
	default:
		said["body"] = body
	}
	text, err := encode(said)
	if err != nil {
		return nil, err
	}
	key := http.Header{"Idempotency-Key": {cmp.Or(envelope.Key, newID())}}
	return read[*Delivery](c.send(ctx, call{method: http.MethodPost, path: "/enqueue", body: text, header: key}))
}

// Delivery returns a delivery with its history, or an [Error] with the code job_not_found.
func (c *Client) Delivery(ctx context.Context, id string) (*Delivery, error) {
	return read[*Delivery](c.send(ctx, call{method: http.MethodGet, path: path("jobs", id)}))
}

// WaitDelivery waits for the end of a delivery for as long as the context lives.
func (c *Client) WaitDelivery(ctx context.Context, id string) (*Delivery, error) {
	query := url.Values{"wait": {"30"}}
	for {
		found, err := read[*Delivery](c.send(ctx, call{method: http.MethodGet, path: path("jobs", id), query: query}))
		if err != nil || found.Ended() {
			return found, err
		}
		if err := sleep(ctx, firstPause); err != nil {
			return found, err
		}
	}
}

// DeliveryResponse returns the body of the target's last answer.
func (c *Client) DeliveryResponse(ctx context.Context, id string) ([]byte, error) {
	got, err := c.send(ctx, call{method: http.MethodGet, path: path("jobs", id, "response", "body")})
	return got.body, err
}

// CancelDelivery cancels a delivery that has not ended.
func (c *Client) CancelDelivery(ctx context.Context, id string) error {
	_, err := c.send(ctx, call{method: http.MethodDelete, path: path("jobs", id), once: true})
	return err
}

// Deliveries goes through deliveries, the newest first.
func (c *Client) Deliveries(ctx context.Context, filter DeliveryFilter) iter.Seq2[*Delivery, error] {
	return c.deliveries(ctx, "/jobs", filter.query())
}

// DeadLetters goes through the dead letters of a target, the newest first. The filter's Target and Status are not used.
func (c *Client) DeadLetters(ctx context.Context, target string, filter DeliveryFilter) iter.Seq2[*Delivery, error] {
	filter.Target, filter.Status = "", ""
	return c.deliveries(ctx, path("targets", target, "dead-letters"), filter.query())
}

func (c *Client) deliveries(ctx context.Context, where string, query url.Values) iter.Seq2[*Delivery, error] {
	type found struct {
		Jobs []*Delivery `json:"jobs"`
		Next *string     `json:"next_cursor"`
	}
	return func(yield func(*Delivery, error) bool) {
		for {
			page, err := read[found](c.send(ctx, call{method: http.MethodGet, path: where, query: query}))
			if err != nil {
				yield(nil, err)
				return
			}
			for _, delivery := range page.Jobs {
				if !yield(delivery, nil) {
					return
				}
			}
			if page.Next == nil {
				return
			}
			query.Set("cursor", *page.Next)
		}
	}
}

// Replay is which dead letters to replay: those with these IDs, those of a filter, or All.
type Replay struct {
	IDs    []string
	Filter DeliveryFilter // its Target and Status are not used
	All    bool
	// Limit is how many at most; 0 means 1,000.
	Limit int
	// DryRun only says which they would be.
	DryRun bool
	// NewKey sends another idempotency key from now on.
	NewKey bool
}

// Replayed is how many dead letters matched, how many were replayed, and which.
type Replayed struct {
	Matched  int      `json:"matched"`
	Replayed int      `json:"replayed"`
	IDs      []string `json:"job_ids"`
}

// ReplayDeadLetters gives dead letters of a target a fresh budget of attempts. It is sent once: a second one would give
// it again.
func (c *Client) ReplayDeadLetters(ctx context.Context, target string, replay Replay) (Replayed, error) {
	said := map[string]any{"dry_run": replay.DryRun}
	for name, values := range replay.Filter.query() {
		if !strings.HasPrefix(name, "label.") && name != "target" && name != "status" {
			said[name] = values[0]
		}
	}
	if replay.Filter.Labels != nil {
		said["labels"] = replay.Filter.Labels
	}
	if replay.IDs != nil {
		said["job_ids"] = replay.IDs
	}
	if replay.All {
		said["all"] = true
	}
	if replay.Limit != 0 {
		said["limit"] = replay.Limit
	}
	if replay.NewKey {
		said["replay_key"] = "new"
	}
	body, err := encode(said)
	if err != nil {
		return Replayed{}, err
	}
	return read[Replayed](c.send(ctx, call{
		method: http.MethodPost, path: path("targets", target, "dead-letters", "replay"), body: body, once: true, timeout: bulkTimeout,
	}))
}

// PurgeDeadLetter removes a dead letter for good.
func (c *Client) PurgeDeadLetter(ctx context.Context, target, id string) error {
	where := path("targets", target, "dead-letters", id)
	_, err := c.send(ctx, call{method: http.MethodDelete, path: where, once: true})
	return err
}

// Target is a receiver of deliveries with its status.
type Target struct {
	Name        string `json:"name"`
	Paused      bool   `json:"paused"`
	DeadLetters int    `json:"dead_letters"`
	InFlight    int    `json:"in_flight"`
	Breaker     struct {
		State    string `json:"state"`
		Failures int    `json:"failures"`
	} `json:"breaker"`
	Depth struct {
		Queued      int `json:"queued"`
		Dispatching int `json:"dispatching"`
		Retrying    int `json:"retrying"`
	} `json:"depth"`
}

// Targets returns every target.
func (c *Client) Targets(ctx context.Context) ([]Target, error) {
	type listed struct{ Targets []Target }
	found, err := read[listed](c.send(ctx, call{method: http.MethodGet, path: "/targets"}))
	return found.Targets, err
}

// Target returns one target, or an [Error] with the code unknown_target.
func (c *Client) Target(ctx context.Context, name string) (*Target, error) {
	return read[*Target](c.send(ctx, call{method: http.MethodGet, path: path("targets", name)}))
}

// PauseTarget pauses a target on all instances; attempts under way continue.
func (c *Client) PauseTarget(ctx context.Context, name string) error {
	_, err := c.send(ctx, call{method: http.MethodPost, path: path("targets", name, "pause")})
	return err
}

// ResumeTarget resumes a paused target, and ends the hold that it asked for.
func (c *Client) ResumeTarget(ctx context.Context, name string) error {
	_, err := c.send(ctx, call{method: http.MethodPost, path: path("targets", name, "resume")})
	return err
}

func stamp(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339Nano)
}
