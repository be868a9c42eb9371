package toril

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// GroupOption is the group that a job belongs to, such as a tenant. Groups share the workers of a queue fairly.
type GroupOption struct {
	// ID has from 1 to 256 characters.
	ID string `json:"id"`
	// Priority within the group, from 0 (first) to 2097152; the job's own Priority does not count then.
	Priority int `json:"priority,omitempty"`
}

// GroupLimits are the limits of a group. What is zero has no limit, or the default of the queue's worker.
type GroupLimits struct {
	// Concurrency is how many of its jobs run at once.
	Concurrency int
	// Limit is how many of its jobs start in a time.
	Limit *Limiter
	// Weight is its share beside other groups, from 1 to 1000.
	Weight int
	// MaxWaiting is with how many waiting jobs an add is refused, with the code group_full.
	MaxWaiting int
}

// Group is a group of a queue's jobs.
type Group struct {
	ID      string
	Waiting int
	Active  int
	Paused  bool
	// Limits are those that were set; Effective are those with the default of the queue's worker.
	Limits, Effective GroupLimits
	// HeldUntil is when its rate lets the next job start; zero where that is now.
	HeldUntil time.Time
}

type groupLimitsJSON struct {
	Concurrency int          `json:"concurrency,omitempty"`
	Limit       *limiterJSON `json:"limit,omitempty"`
	Weight      int          `json:"weight,omitempty"`
	MaxWaiting  int          `json:"max_waiting,omitempty"`
}

type groupJSON struct {
	ID        string          `json:"id"`
	Waiting   int             `json:"waiting"`
	Active    int             `json:"active"`
	Paused    bool            `json:"paused"`
	Limits    groupLimitsJSON `json:"limits"`
	Effective groupLimitsJSON `json:"effective"`
	HeldUntil *time.Time      `json:"held_until"`
}

func (l GroupLimits) wire() groupLimitsJSON {
	limits := groupLimitsJSON{Concurrency: l.Concurrency, Weight: l.Weight, MaxWaiting: l.MaxWaiting}
	if l.Limit != nil {
		limits.Limit = &limiterJSON{l.Limit.Max, atLeastOne(l.Limit.Duration, time.Millisecond)}
	}
	return limits
}

func (l groupLimitsJSON) read() GroupLimits {
	limits := GroupLimits{Concurrency: l.Concurrency, Weight: l.Weight, MaxWaiting: l.MaxWaiting}
	if l.Limit != nil {
		limits.Limit = &Limiter{l.Limit.Max, time.Duration(l.Limit.Duration) * time.Millisecond}
	}
	return limits
}

func (g groupJSON) read() Group {
	group := Group{g.ID, g.Waiting, g.Active, g.Paused, g.Limits.read(), g.Effective.read(), time.Time{}}
	if g.HeldUntil != nil {
		group.HeldUntil = *g.HeldUntil
	}
	return group
}

// Groups goes through the groups that have jobs or limits, by id; those whose ids match the glob, all if it is empty.
func (q *Queue[T, R]) Groups(ctx context.Context, match string) iter.Seq2[Group, error] {
	type found struct {
		Groups []groupJSON `json:"groups"`
		Next   *string     `json:"next_cursor"`
	}
	return func(yield func(Group, error) bool) {
		query := url.Values{"limit": {"1000"}}
		if match != "" {
			query.Set("match", match)
		}
		for {
			page, err := read[found](q.get(ctx, q.path("groups"), query))
			if err != nil {
				yield(Group{}, err)
				return
			}
			for _, group := range page.Groups {
				if !yield(group.read(), nil) {
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

// Group returns a group, also one that has nothing.
func (q *Queue[T, R]) Group(ctx context.Context, id string) (Group, error) {
	found, err := read[groupJSON](q.get(ctx, q.path("groups", id), nil))
	return found.read(), err
}

// SetGroup replaces the limits of a group; they count at once. Its pause stays as it is.
func (q *Queue[T, R]) SetGroup(ctx context.Context, id string, limits GroupLimits) (Group, error) {
	body, err := encode(limits.wire())
	if err != nil {
		return Group{}, err
	}
	found, err := read[groupJSON](q.client.send(ctx, call{method: http.MethodPut, path: q.path("groups", id), body: body}))
	return found.read(), err
}

// ResetGroup removes the limits and the pause of a group.
func (q *Queue[T, R]) ResetGroup(ctx context.Context, id string) error {
	return q.act(ctx, http.MethodDelete, false, "groups", id)
}

// PauseGroup pauses a group: none of its jobs starts.
func (q *Queue[T, R]) PauseGroup(ctx context.Context, id string) error {
	return q.act(ctx, http.MethodPost, false, "groups", id, "pause")
}

// ResumeGroup resumes a paused group.
func (q *Queue[T, R]) ResumeGroup(ctx context.Context, id string) error {
	return q.act(ctx, http.MethodPost, false, "groups", id, "resume")
}

// DrainGroup removes the waiting jobs of a group and returns how many there were. It is sent once: a second answer would
// count none.
func (q *Queue[T, R]) DrainGroup(ctx context.Context, id string) (int, error) {
	drain := call{method: http.MethodPost, path: q.path("groups", id, "drain"), body: []byte("{}"), once: true}
	found, err := read[struct {
		Removed int `json:"removed"`
	}](q.client.send(ctx, drain))
	return found.Removed, err
}
