package toril_test

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"toril"
)

// doors is a client of a toril with the targets taking, refusing and paused, and the upstream /api.
func doors(t *testing.T) (*toril.Client, *toril.ProxyClient) {
	t.Helper()
	url, token := os.Getenv("DOORS"), os.Getenv("TOKEN")
	if url == "" || token == "" {
		t.Skip("DOORS and TOKEN name no server with all doors to test against")
	}
	return toril.NewClient(url, token), toril.NewProxyClient(url)
}

func TestJobsAreSearchedAndChangedManyAtOnce(t *testing.T) {
	client, _ := doors(t)
	queue, ctx := toril.NewQueue[number, any](client, queueName()), within(t)
	var wanted []toril.NewJob[number]
	for n := range 120 {
		wanted = append(wanted, toril.NewJob[number]{Name: "n", Data: number{n % 3}, Options: toril.JobOptions{Delay: time.Hour}})
	}
	jobs := must(queue.AddBulk(ctx, wanted))(t)
	found := 0
	for job, err := range queue.Search(ctx, "data.N = 1 or data.n = 1", toril.Delayed) {
		if err != nil {
			t.Fatal(err)
		}
		equal(t, job.Data.N, 1)
		found++
	}
	equal(t, found, 40)
	chosen := toril.Bulk{Action: "promote", Where: "data.N = 1 or data.n = 1", States: []toril.State{toril.Delayed}, DryRun: true}
	tried := must(queue.Bulk(ctx, chosen))(t)
	equal(t, tried.Matched == 40 && must(queue.Counts(ctx))(t)[toril.Waiting] == 0, true)
	chosen.DryRun = false
	equal(t, must(queue.Bulk(ctx, chosen))(t).Done, 40)
	equal(t, must(queue.Counts(ctx))(t)[toril.Waiting], 40)
	refused := must(queue.Bulk(ctx, toril.Bulk{Action: "retry", IDs: []string{jobs[0].ID}}))(t)
	equal(t, refused.Refused == 1 && refused.Failed[0].Code == "wrong_state", true)
	for _, err := range queue.Search(ctx, "data.n =") {
		wantCode(t, err, "invalid_where", 400)
	}
	for _, err := range []error{queue.Promote(ctx, jobs[0].ID), queue.Pause(ctx), queue.Resume(ctx)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, queue.Retry(ctx, jobs[0].ID), "wrong_state", 409)
	if err := queue.Remove(ctx, jobs[0].ID); err != nil {
		t.Fatal(err)
	}
	_, err := queue.Get(ctx, jobs[0].ID)
	wantCode(t, err, "job_not_found", 404)
}

func TestADeliveryIsFollowedToItsEndOrCancelled(t *testing.T) {
	client, _ := doors(t)
	ctx, key := within(t), queueName()
	envelope := toril.Envelope{
		Target: "taking", Path: "/invoices", Body: []byte("raw"), Key: key, Labels: map[string]string{"test": key},
		Group:   &toril.GroupOption{ID: "acme", Priority: 3},
		Headers: map[string]string{"x-a": "b"}, Deadline: time.Now().Add(time.Hour),
	}
	sent := must(client.Enqueue(ctx, envelope))(t)
	equal(t, must(client.Enqueue(ctx, envelope))(t).ID, sent.ID)
	ended := must(client.WaitDelivery(ctx, sent.ID))(t)
	equal(t, ended.Status == "delivered" && ended.AttemptsMade == 1 && len(ended.Attempts) == 1, true)
	body := string(must(client.DeliveryResponse(ctx, sent.ID))(t))
	equal(t, strings.Contains(body, `"/taking/invoices"`) && strings.Contains(body, `"raw"`), true)
	equal(t, must(client.Delivery(ctx, sent.ID))(t).Labels["test"], key)
	equal(t, *must(client.Delivery(ctx, sent.ID))(t).Group, toril.GroupOption{ID: "acme", Priority: 3})
	filter := toril.DeliveryFilter{Target: "taking", Status: "delivered", Labels: envelope.Labels}
	listed := 0
	for delivery, err := range client.Deliveries(ctx, filter) {
		if err != nil {
			t.Fatal(err)
		}
		equal(t, delivery.ID, sent.ID)
		listed++
	}
	equal(t, listed, 1)
	waiting := must(client.Enqueue(ctx, toril.Envelope{Target: "taking", Delay: time.Hour}))(t)
	if err := client.CancelDelivery(ctx, waiting.ID); err != nil {
		t.Fatal(err)
	}
	equal(t, must(client.Delivery(ctx, waiting.ID))(t).Status, "cancelled")
}

func TestDeadLettersAreListedReplayedAndPurged(t *testing.T) {
	client, _ := doors(t)
	ctx, labels := within(t), map[string]string{"test": queueName()}
	var sent []string
	for n := range 3 {
		delivery := must(client.Enqueue(ctx, toril.Envelope{Target: "refusing", Body: n, Labels: labels}))(t)
		equal(t, must(client.WaitDelivery(ctx, delivery.ID))(t).Reason, "refused")
		sent = append(sent, delivery.ID)
	}
	dead := func() []string {
		var found []string
		for delivery, err := range client.DeadLetters(ctx, "refusing", toril.DeliveryFilter{Labels: labels}) {
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, delivery.ID)
		}
		return found
	}
	equal(t, len(dead()), 3)
	chosen := toril.Replay{Filter: toril.DeliveryFilter{Labels: labels, Reason: "refused"}, DryRun: true}
	tried := must(client.ReplayDeadLetters(ctx, "refusing", chosen))(t)
	equal(t, tried.Matched == 3 && tried.Replayed == 0, true)
	replayed := must(client.ReplayDeadLetters(ctx, "refusing", toril.Replay{IDs: sent[:2], NewKey: true}))(t)
	equal(t, replayed.Replayed, 2)
	for len(must(client.Delivery(ctx, sent[0]))(t).Attempts) < 2 {
	}
	if err := client.PurgeDeadLetter(ctx, "refusing", sent[2]); err != nil {
		t.Fatal(err)
	}
	equal(t, slices.Contains(dead(), sent[2]), false)
}

func TestTargetsAreShownAndPaused(t *testing.T) {
	client, _ := doors(t)
	ctx := within(t)
	equal(t, len(must(client.Targets(ctx))(t)), 3)
	if err := client.PauseTarget(ctx, "paused"); err != nil {
		t.Fatal(err)
	}
	equal(t, must(client.Target(ctx, "paused"))(t).Paused, true)
	sent := must(client.Enqueue(ctx, toril.Envelope{Target: "paused"}))(t)
	equal(t, must(client.Delivery(ctx, sent.ID))(t).Status, "queued")
	if err := client.ResumeTarget(ctx, "paused"); err != nil {
		t.Fatal(err)
	}
	equal(t, must(client.WaitDelivery(ctx, sent.ID))(t).Status, "delivered")
	_, err := client.Target(ctx, "nowhere")
	wantCode(t, err, "unknown_target", 404)
}

func TestAProxiedRequestIsSubmittedWaitedForAndCancelled(t *testing.T) {
	_, proxy := doors(t)
	ctx := within(t)
	id := must(proxy.Submit(must(proxy.NewRequest(ctx, "POST", "/api/teapot", strings.NewReader("{}")))(t)))(t)
	equal(t, must(proxy.Wait(ctx, id))(t).Status, "completed")
	answer := must(proxy.Response(ctx, id))(t)
	defer answer.Body.Close()
	equal(t, answer.StatusCode == 418 && answer.Header.Get("x-pot") == "short and stout", true)
	running := must(proxy.Submit(must(proxy.NewRequest(ctx, "GET", "/api/never", nil))(t)))(t)
	_, err := proxy.Response(ctx, running)
	wantCode(t, err, "not_found", 404)
	if err := proxy.Cancel(ctx, running); err != nil {
		t.Fatal(err)
	}
	_, err = proxy.Job(ctx, running)
	wantCode(t, err, "not_found", 404)
	endless := io.MultiReader(strings.NewReader("of no length"))
	_, err = proxy.Submit(must(proxy.NewRequest(ctx, "POST", "/api/teapot", endless))(t))
	var past *toril.NotQueuedError
	equal(t, errors.As(err, &past) && past.Response.StatusCode == 418, true)
	past.Response.Body.Close()
	_, err = toril.NewProxyClient("http://127.0.0.1:9").Job(ctx, "1")
	wantCode(t, err, "unreachable", 0)
}

func TestGroupsAreLimitedPausedAndDrained(t *testing.T) {
	client, _ := doors(t)
	queue, ctx := toril.NewQueue[number, any](client, queueName()), within(t)
	rate := toril.Limiter{Max: 10, Duration: 500 * time.Millisecond}
	limits := toril.GroupLimits{Concurrency: 2, Limit: &rate, Weight: 3, MaxWaiting: 3}
	set := must(queue.SetGroup(ctx, "acme/ü 1", limits))(t)
	equal(t, set.ID, "acme/ü 1")
	for _, shown := range []toril.GroupLimits{set.Limits, set.Effective} {
		equal(t, *shown.Limit, rate)
		shown.Limit = &rate
		equal(t, shown, limits)
	}
	for range 3 {
		must(queue.Add(ctx, "n", number{1}, &toril.JobOptions{Group: &toril.GroupOption{ID: "acme/ü 1", Priority: 7}}))(t)
	}
	_, err := queue.Add(ctx, "n", number{1}, &toril.JobOptions{Group: &toril.GroupOption{ID: "acme/ü 1"}})
	wantCode(t, err, "group_full", 429)
	must(queue.Add(ctx, "n", number{1}, &toril.JobOptions{Group: &toril.GroupOption{ID: "other"}}))(t)
	var names []string
	for group, err := range queue.Groups(ctx, "") {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, group.ID)
	}
	equal(t, strings.Join(names, ", "), "acme/ü 1, other")
	for group, err := range queue.Groups(ctx, "oth*") {
		equal(t, err == nil && group.ID == "other", true)
	}
	if err := queue.PauseGroup(ctx, "acme/ü 1"); err != nil {
		t.Fatal(err)
	}
	paused := must(queue.Group(ctx, "acme/ü 1"))(t)
	equal(t, paused.Paused && paused.Waiting == 3 && paused.HeldUntil.IsZero(), true)
	if err := queue.ResumeGroup(ctx, "acme/ü 1"); err != nil {
		t.Fatal(err)
	}
	equal(t, must(queue.Group(ctx, "acme/ü 1"))(t).Paused, false)
	equal(t, must(queue.DrainGroup(ctx, "acme/ü 1"))(t), 3)
	if err := queue.ResetGroup(ctx, "acme/ü 1"); err != nil {
		t.Fatal(err)
	}
	equal(t, must(queue.Group(ctx, "acme/ü 1"))(t).Limits, toril.GroupLimits{})
	_, err = queue.SetGroup(ctx, "acme", toril.GroupLimits{Weight: 1001})
	wantCode(t, err, "invalid_request", 400)
}
