// Works on the queue orders until SIGTERM or Ctrl-C. TORIL and TOKEN say where and as whom.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"toril"
)

type Order struct {
	Amount int `json:"amount"`
}

type Receipt struct {
	Charged int `json:"charged"`
}

func charge(ctx context.Context, task *toril.Task[Order]) (Receipt, error) {
	fmt.Println("charging", task.Data.Amount)
	if err := task.Progress(ctx, 50); err != nil {
		return Receipt{}, err
	}
	select {
	case <-time.After(20 * time.Millisecond): // the work
		return Receipt{Charged: task.Data.Amount}, nil
	case <-ctx.Done(): // the job no longer belongs to this worker
		return Receipt{}, context.Cause(ctx)
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	client := toril.NewClient(os.Getenv("TORIL"), os.Getenv("TOKEN"))
	orders := toril.NewQueue[Order, Receipt](client, cmp.Or(os.Getenv("QUEUE"), "orders"))

	worker := orders.Worker(charge, toril.WorkerOptions{Concurrency: 10})
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
