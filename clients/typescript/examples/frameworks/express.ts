// An Express application that toril pushes the jobs of the queue `orders` to.

import express from "express";
import { expressHandler } from "toril-client/express";
import { charge, listen, signing, TORIL } from "./serve.js";

const app = express();
app.post("/charge", expressHandler(TORIL, charge, signing)); // before app.use(express.json())
listen(app);
