-- A constraint that was validated stays so.
SELECT 1;
