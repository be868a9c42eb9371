// Adds a job to the queue orders and waits for its result. TORIL and TOKEN say where and as whom.
package main

import (
	"cmp"
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"toril"
)

type Order struct {
	Amount int `json:"amount"`
}

type Receipt struct {
	Charged int `json:"charged"`
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	client := toril.NewClient(os.Getenv("TORIL"), os.Getenv("TOKEN"))
	orders := toril.NewQueue[Order, Receipt](client, cmp.Or(os.Getenv("QUEUE"), "orders"))

	job, err := orders.Add(ctx, "charge", Order{Amount: 42}, &toril.JobOptions{Attempts: 3})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("added", job.ID)

	receipt, err := orders.Wait(ctx, job.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("charged", receipt.Charged)
}
